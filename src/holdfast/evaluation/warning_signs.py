"""Warning signs that an attack failed for a reason other than robustness.

After Athalye et al. 2018 (arXiv 1802.00420), Carlini et al. 2019 (arXiv 1902.06705) and Pintor et al. 2022
(arXiv 2106.09947). Each indicator looks for one way in which a robust accuracy can be too high, on a sample
of the examples, and says nothing where it finds none.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from holdfast import _tensors
from holdfast.attacks import PGD, Attack, MultiTarget, RandomAttack, attacking
from holdfast.attacks.base import AttackResult, Goal, balls_by_radius
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.margins import margin
from holdfast.attacks.square import Square
from holdfast.diagnosis import Finding, Remedy
from holdfast.errors import InputError
from holdfast.evaluation.memory import halving
from holdfast.evaluation.result import Evaluation
from holdfast.losses import CrossEntropy, Outputs
from holdfast.threats import LpBall
from holdfast.threats.base import Threat

Result = TypeVar("Result")

SAMPLE = 128
SAME = 1e-4  # outputs that differ by less, relative to their size, are the same up to rounding
MANY = 0.1  # share of the sample from which on a sign counts
SOME = 0.02  # share of examples that a further search may break by luck
HIGHER = 0.1  # share of the loss gained so far that further steps may add
SMALL_STEP = 1e-3  # of the radius: within it a network is not constant


def examined(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    result: Evaluation,
    *,
    radii: Tensor | None = None,
    training: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Evaluation:
    """The evaluation with its warnings: every indicator that found a sign. Those are ``bad`` that leave the
    figures without meaning.

    Args:
        model, x, y, threat: as they were evaluated; x and y row by row those of ``result``.
        result: what `evaluate` found.
        radii: of each example's own ball.
        training: whether the model was handed over in training mode.
        seed: of the sample and of the searches.
        batch_size: examples at once; default the whole sample. Half as many where memory runs out, as often
            as it does.
        progress: called with (words, number of indicators done, number of all).
        notice: called with a sentence where fewer examples fit into the memory.
    """
    subject = Subject(model, x, y, threat, result, training, seed, radii, batch_size or SAMPLE, notice)
    signs = []
    for number, (name, indicator) in enumerate(INDICATORS.items()):
        found = indicator(subject)
        if found is not None:
            level, what, remedy = found
            python, command = remedy if isinstance(remedy, Remedy) else (remedy, "")
            signs.append(Finding(name=name, level=level, sentence=what, remedy=python, command=command))
        if progress is not None:
            progress("signs of failed attacks", number + 1, len(INDICATORS))
    if any(sign.name == "contradiction" for sign in signs):
        result = replace(
            result,
            verified=torch.zeros_like(result.verified),
            loss_bound=torch.full_like(result.loss_bound, torch.inf),
        )
    return replace(result, warnings=tuple(signs))


Found = tuple[Literal["warning", "bad"], str, Remedy | str]


class Subject:
    """What indicators look at: a random sample of the examples classified correctly, and of those no
    attack broke.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        result: Evaluation,
        training: bool,
        seed: int,
        radii: Tensor | None = None,
        size: int = SAMPLE,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.model, self.threat, self.result, self.training, self.seed = model, threat, result, training, seed
        self._size, self._notice = size, notice or (lambda text: None)
        self._radii = None if radii is None else radii.cpu()
        self.device = _tensors.device_of(model, x)
        self._x, self._y = x.detach().cpu(), y.cpu().long()
        self._order = torch.randperm(len(x), generator=_tensors.generator(seed))

    def _rows(self, flags: Tensor) -> Tensor:
        return self._order[flags[self._order]][:SAMPLE]

    @cached_property
    def right(self) -> tuple[Tensor, Tensor]:
        """Examples classified correctly, with their labels."""
        rows = self._rows(self.result.clean)
        return self._x[rows].to(self.device), self._y[rows].to(self.device)

    @cached_property
    def standing(self) -> tuple[Tensor, Tensor, Tensor]:
        """Examples neither broken nor proved, their labels, and the strongest points known."""
        rows = self._rows(self.result.robust & ~self.result.verified)
        return (
            self._x[rows].to(self.device),
            self._y[rows].to(self.device),
            self.result.x[rows].to(self.device),
        )

    @cached_property
    def radii(self) -> Tensor | None:
        """Of the balls of `standing`, where they differ."""
        return (
            None
            if self._radii is None
            else self._radii[self._rows(self.result.robust & ~self.result.verified)]
        )

    @property
    def attacked_at_all(self) -> bool:
        """Whether an attack ran: otherwise attacks cannot be judged."""
        return any(stage.kind == "attack" and not stage.note for stage in self.result.stages)

    @cached_property
    def differentiable(self) -> bool:
        """Whether the outputs carry a gradient at all."""
        try:
            self.gradient(self._x[:1].to(self.device), self._y[:1], lambda outputs, y: outputs.sum(1))
        except InputError:
            return False
        return True

    @cached_property
    def random(self) -> bool:
        """Whether two passes over the same examples differ."""
        x, _ = self.right
        if len(x) == 0:
            return False
        with attacking(self.model, "eval"), torch.no_grad():
            first, second = (
                torch.cat(self._in_parts(lambda part: _tensors.applied(self.model, x[part]), len(x)))
                for _ in range(2)
            )
        return _differ(first, second)

    def outputs(self, x: Tensor, mode: Literal["eval", "train"] = "eval") -> Outputs:
        def work(part: slice) -> Tensor:
            with attacking(self.model, mode), torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(self.seed)
                return _tensors.answers(self.model, x[part])

        return torch.cat(self._in_parts(work, len(x)))

    def attacked(self, attack: Attack, x: Tensor, y: Tensor, threat: Threat | None = None) -> AttackResult:
        """In this threat; by default each example in its own, and these are then those of `standing`."""
        radii = self.radii if threat is None else None

        def work(part: slice) -> AttackResult:
            own = None if radii is None else radii[part]
            return attack.run(
                self.model, x[part], y[part], threat or self.threat, radii=own, seed=self.seed + 17
            )

        found = self._in_parts(work, len(x))
        return AttackResult(
            x=torch.cat([part.x for part in found]),
            loss=torch.cat([part.loss for part in found]),
            success=torch.cat([part.success for part in found]),
        )

    def gradient(self, x: Tensor, y: Tensor, value: Callable[[Outputs, Tensor], Tensor]) -> Tensor:
        """Of ``value(outputs, labels)`` in the input, a row per example."""

        def work(part: slice) -> Tensor:
            with attacking(self.model, "eval"):
                return outputs_and_gradient(self.model, x[part], lambda outputs: value(outputs, y[part]))[1]

        return _tensors.flatten(torch.cat(self._in_parts(work, len(x))))

    @staticmethod
    def _first(work: Callable[[slice], Result], done: int, count: int, size: int) -> Result:
        return work(slice(done, min(done + size, count)))

    def _in_parts(self, work: Callable[[slice], Result], count: int) -> list[Result]:
        """``work`` on consecutive rows, as many at once as memory allows."""
        found: list[Result] = []
        done = 0
        while done < count or not found:
            part, self._size = halving(partial(self._first, work, done, count), self._size, self._notice)
            found.append(part)
            done += self._size
        return found


def _negated_margin(outputs: Outputs, y: Tensor) -> Tensor:
    return -margin(outputs, y)


def _cross_entropy(outputs: Outputs, y: Tensor) -> Tensor:
    return CrossEntropy()(outputs, y)


def _differ(first: Tensor, second: Tensor) -> bool:
    scale = torch.maximum(first.abs().amax(), second.abs().amax()).clamp_min(1e-30)
    return bool((first - second).abs().amax() > SAME * scale)


def _contradiction(subject: Subject) -> Found | None:
    both = int((subject.result.verified & ~subject.result.robust).sum())
    if not both:
        return None
    return (
        "bad",
        f"{both} examples were proved robust and yet broken, so the bounds are wrong and nothing counts "
        "as proved",
        Remedy.by(
            "report this as a fault of Holdfast, and evaluate without bounds",
            python="verify=None",
            command="--verify none",
        ),
    )


def _labels(subject: Subject) -> Found | None:
    y, accuracy = subject.result.y, subject.result.clean_accuracy
    guess = float(torch.bincount(y).max() / len(y))
    if accuracy > guess or len(set(y.tolist())) == 1:
        return None
    return (
        "bad",
        f"clean accuracy {accuracy:.1%} is no better than always guessing the commonest label ({guess:.1%})",
        "check the labels' numbering, the scaling of the inputs and the weights",
    )


def _no_attack(subject: Subject) -> Found | None:
    if subject.attacked_at_all:
        return None
    return (
        "warning",
        "no attack was run, so the robust accuracy is the accuracy without an adversary",
        Remedy.by(
            "evaluate with the suite standard", python="attacks='standard'", command="--attacks standard"
        ),
    )


def _training_mode(subject: Subject) -> Found | None:
    x, _ = subject.right
    if not subject.training or len(x) == 0:
        return None
    twice = torch.cat([x, x])  # batch norm refuses to train on one example
    if not _differ(subject.outputs(twice), subject.outputs(twice, "train")):
        return None
    return (
        "warning",
        "the model was handed over in training mode, and gives other outputs there than in evaluation "
        "mode, in which it was evaluated",
        "call model.eval() before, and make sure that this is how the model is used",
    )


def _randomness(subject: Subject) -> Found | None:
    if not subject.random:
        return None
    return (
        "warning",
        "two passes over the same examples give different outputs: the model is random or keeps a state",
        "attack the mean over its randomness, with holdfast.attacks.ExpectedGradient",
    )


def _batches(subject: Subject) -> Found | None:
    x, _ = subject.right
    if len(x) < 2:
        return None
    one, all_ = subject.outputs(x[:1]), subject.outputs(x)[:1]
    if not _differ(one, all_) or subject.random:
        return None
    return (
        "warning",
        "the output of an example depends on the others in its batch",
        Remedy.by(
            "make the model treat rows apart, as batch norm does in evaluation mode, or evaluate them one by one",
            python="batch_size=1",
            command="--batch-size 1",
        ),
    )


def _zero_gradients(subject: Subject) -> Found | None:
    x, y = subject.right
    if len(x) == 0:
        return None
    if not subject.differentiable:
        return (
            "warning",
            "the outputs carry no gradient",
            "attack with holdfast.attacks.Square, or give the model a differentiable form",
        )
    by_margin = subject.gradient(x, y, _negated_margin)
    by_loss = subject.gradient(x, y, _cross_entropy)
    flat = float((by_margin == 0).all(1).float().mean())
    if flat > MANY:
        return (
            "warning",
            f"the margin's gradient is exactly 0 for {flat:.0%} of the examples: gradient attacks see "
            "nothing there",
            "remove what masks the gradient (rounding, saturation), or replace it by a differentiable "
            "form in the attack",
        )
    faded = float((by_loss == 0).all(1).float().mean())
    if faded > MANY:
        return (
            "warning",
            f"the loss's gradient is exactly 0 for {faded:.0%} of the examples, the margin's is not: "
            "outputs are so large that the loss saturates",
            "attack with a margin loss (the suites' targeted APGD does), or divide the outputs by a constant",
        )
    return None


def _quantisation(subject: Subject) -> Found | None:
    x, y = subject.right
    if len(x) == 0 or not subject.differentiable:
        return None
    gradient = subject.gradient(x, y, _negated_margin)
    noise = torch.randn(
        gradient.shape, generator=_tensors.generator(subject.seed, x.device), device=x.device
    ).to(gradient)
    length = gradient.norm(dim=1, keepdim=True)
    direction = torch.where(length > 0, gradient, noise)
    # A step so small that the network is as good as linear, yet well above the rounding of its inputs.
    step = SMALL_STEP * max(subject.threat.step_scale, 1e-2 * float(_tensors.flatten(x).norm(dim=1).mean()))
    moved = x + (step * direction / direction.norm(dim=1, keepdim=True)).reshape(x.shape)
    before, after = (margin(subject.outputs(v), y) for v in (x, moved))
    promised, came = step * length[:, 0], (before - after).abs()
    visible = promised > 1e-5 * before.abs().clamp_min(1e-30)
    constant = ((came <= 0.02 * promised) & visible) | (came == 0)
    share = float(constant.float().mean())
    if share <= MANY:
        return None
    return (
        "warning",
        f"outputs do not change under tiny changes of the input for {share:.0%} of the examples: the "
        "model rounds its inputs",
        "attack through a differentiable form of the rounding, and look at the black-box attack's figure",
    )


def _loss_rises(subject: Subject) -> Found | None:
    x, y, _ = subject.standing
    if not subject.attacked_at_all or len(x) < 5 or not subject.differentiable:
        return None
    chance = subject.attacked(RandomAttack(samples=10), x, y).loss
    led = subject.attacked(PGD(steps=20), x, y).loss
    stuck = float((led <= chance * (1 + 1e-6)).float().mean())
    if stuck <= 0.5:
        return None
    return (
        "warning",
        f"twenty gradient steps find no higher loss than ten random points for {stuck:.0%} of the "
        "examples: gradients do not lead uphill",
        "look at the loss along the gradient; smooth the model for the attack, or average the gradient "
        "over nearby points",
    )


def _black_box(subject: Subject) -> Found | None:
    x, y, _ = subject.standing
    if not subject.attacked_at_all or len(x) == 0 or Square().refuses(subject.threat):
        return None
    broken = int(subject.attacked(Square(queries=500), x, y).success.sum())
    if broken <= max(1, SOME * len(x)):
        return None
    return (
        "warning",
        f"a black-box search breaks {broken} of {len(x)} examples that the attacks left: they are too "
        "weak, or their gradients mislead",
        "evaluate with the suite standard; where this sign stays, find what masks the gradient, and "
        "report the black-box figure",
    )


def _unbounded(subject: Subject) -> Found | None:
    x, y, _ = subject.standing
    if len(x) == 0 or not subject.differentiable or not isinstance(subject.threat, LpBall):
        return None
    if len(set(subject.result.y.tolist())) == 1:
        return None
    wide = subject.threat.with_radius(_everything(subject.threat, x))
    left = x
    for attack in (
        PGD(steps=50, restarts=2, keep_best=True, drop_broken=True),
        MultiTarget(attack=PGD(steps=50), classes=3),
    ):
        left_rows = ~subject.attacked(attack, left, y, wide).success
        left, y = left[left_rows], y[left_rows]
        if len(left) == 0:
            return None
    share = len(left) / len(x)
    if share <= 0.05:
        return None
    return (
        "warning",
        f"{share:.0%} of the examples withstand gradient attacks of unlimited size, which any classifier "
        "fails: gradients are masked",
        "find what masks the gradient before trusting the robust accuracy",
    )


def _everything(threat: LpBall, x: Tensor) -> float:
    """A radius from which on the ball holds the whole box; without a box, ten times the spread of the
    data.
    """
    features = x[0].numel()
    spread = float((x.amax(0) - x.amin(0)).abs().amax()) or 1.0
    if threat.bounds is not None:
        low, high = (torch.as_tensor(edge, dtype=torch.float64) for edge in threat.bounds)
        width = float((high - low).abs().amax())
        spread = width if width < float("inf") else 10 * spread
    else:
        spread = 10 * spread
    power: float = {"inf": 0.0, "2": 0.5, "1": 1.0}[threat.norm]
    return float(max(threat.radius, spread * features**power))


def _stopped_early(subject: Subject) -> Found | None:
    x, y, points = subject.standing
    if not subject.attacked_at_all or len(x) < 5 or not subject.differentiable:
        return None
    goal = Goal(loss=CrossEntropy())
    gap = _stationarity(subject, x, y, points)
    if float((gap > 0.2).float().mean()) <= MANY:
        return None
    held, clean = (goal.loss(subject.outputs(v), y) for v in (points, x))
    further = subject.attacked(PGD(steps=50, step_size=subject.threat.step_scale / 10, keep_best=True), x, y)
    broken = int(further.success.sum())
    gained = float((further.loss - torch.maximum(held, clean)).clamp_min(0).mean())
    if broken <= max(1, SOME * len(x)) and gained <= HIGHER * max(
        float((held - clean).clamp_min(0).mean()), 1e-6
    ):
        return None
    return (
        "warning",
        f"the attacks stopped before they were done: fifty more steps break {broken} of {len(x)} examples "
        f"they left and raise the mean loss by {gained:.3g}",
        "give the attacks more steps or restarts, or use a suite (standard)",
    )


def _stationarity(subject: Subject, x: Tensor, y: Tensor, points: Tensor) -> Tensor:
    """First-order gap ``max <g, x'' - x'>`` over the threat set at the points found, as a share of that at
    the examples (Wang et al. 2019, arXiv 2112.08304): 0 where no direction within the set promises a higher
    loss.
    """

    def gap(at: Tensor) -> Tensor:
        gradient = subject.gradient(at, y, _negated_margin).reshape(at.shape)
        balls = (
            [(torch.arange(len(x)), subject.threat)]
            if subject.radii is None
            else balls_by_radius(subject.threat, subject.radii, len(x))
        )
        best = x.clone()
        for rows, ball in balls:
            best[rows] = ball.maximise(gradient[rows], x[rows])
        return (_tensors.flatten(gradient) * _tensors.flatten(best - at)).sum(1).clamp_min(0)

    return gap(points) / gap(x).clamp_min(1e-30)


INDICATORS: dict[str, Callable[[Subject], Found | None]] = {
    "contradiction": _contradiction,
    "labels": _labels,
    "no attack": _no_attack,
    "training mode": _training_mode,
    "randomness": _randomness,
    "batch dependence": _batches,
    "zero gradients": _zero_gradients,
    "quantisation": _quantisation,
    "loss not rising": _loss_rises,
    "black box stronger": _black_box,
    "unlimited radius": _unbounded,
    "stopped early": _stopped_early,
}
