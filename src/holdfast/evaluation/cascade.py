"""Attacks in turn, with bounds after the first, each only on what is still open."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from holdfast import _defaults, _tensors
from holdfast._arguments import EXAMPLES, LABELS, MODEL, RADII, Array, as_tensor, check_precision, paired
from holdfast._deadline import Deadline
from holdfast._memory import out_of_memory
from holdfast._rules import COUNT, FLAG, FUNCTION, PATH, SEED, maybe, real, takes, word
from holdfast._signals import stopping
from holdfast.attacks import Attack, CleanAttack
from holdfast.attacks.base import AttackResult, balls_by_radius, checked_model
from holdfast.errors import InputError
from holdfast.evaluation.memory import batch_size_for, halving
from holdfast.evaluation.progress_file import Position, ProgressFile, fingerprint
from holdfast.evaluation.result import Evaluation, Stage, together
from holdfast.evaluation.suites import ATTACKS, suite
from holdfast.evaluation.warning_signs import examined
from holdfast.losses import LOSS, Loss, as_loss
from holdfast.threats import THREAT, Threat, as_threat
from holdfast.verification import Verification
from holdfast.verification import verify as verified_bounds
from holdfast.verification.methods import Method

Progress = Callable[[str, int, int], None]

PLAIN = {"auto": "crown", "alpha": "crown"}
"""Bounds without search, for examples of which only the loss is wanted."""


@takes(
    model=MODEL,
    x=EXAMPLES,
    y=LABELS,
    threat=THREAT,
    attacks=ATTACKS,
    verify=maybe(word(*get_args(Method))),
    verify_seconds=maybe(real(least=0, finite=False)),
    loss=maybe(LOSS),
    batch_size=maybe(COUNT),
    drop_broken=FLAG,
    examples=maybe(COUNT),
    radii=maybe(RADII),
    seed=SEED,
    resume_from=maybe(PATH),
    progress=maybe(FUNCTION),
    notice=maybe(FUNCTION),
    examine=FLAG,
)
def evaluate(
    model: nn.Module,
    x: Array,
    y: Array,
    threat: Threat | str,
    attacks: str | Attack | Sequence[Attack | str] = _defaults.ATTACKS,
    *,
    verify: str | None = _defaults.VERIFY,
    verify_seconds: float | None = _defaults.VERIFY_SECONDS,
    loss: Loss | str | None = None,
    batch_size: int | None = None,
    drop_broken: bool = True,
    examples: int | None = None,
    radii: Array | None = None,
    seed: int = _defaults.SEED,
    resume_from: str | Path | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
    examine: bool = True,
) -> Evaluation:
    """Attack ``model`` with each attack in turn, and prove what can be proved.

    Bounds come after the first attack; at last signs are looked for that the attacks failed. The model is
    taken in evaluation mode.

    Args:
        model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs; batches go to its
            device.
        x: examples (examples, ...), on any device.
        y: labels ``0 .. classes-1``, (examples,).
        threat: or text such as ``linf:0.1``, which has no box.
        attacks: attacks in order, cheap ones first, or the name of a suite: ``standard``, ``fast``,
            ``strong``, ``pgd`` or ``clean``.
        verify: method of `holdfast.verify` with which examples are proved; ``None`` for no bounds. Under
            ``auto`` a model that no bounds are known for is attacked all the same, and the stage's note says
            why nothing is proved.
        verify_seconds: for all bounds together; what was not reached counts as not verified. ``None`` for no
            limit.
        loss: scores the points, and leads attacks without a loss of their own; default cross-entropy.
        batch_size: examples attacked at once; default: as many as fit into a quarter of the free memory, at
            most 256 on a CPU. Halved, and ``notice`` told so, where memory runs out all the same.
        drop_broken: examples that are misclassified, proved, or broken by one attack, are spared the next, as
            only success matters. False: every example meets every attack, for the highest loss; attacks that
            drop broken examples themselves (`PGD.drop_broken`, as in ``pgd``) still do so.
        examples: evaluate only this many, drawn at random; the result then has confidence intervals.
        radii: of each example's own ball, (examples,); default the threat's radius. Examples of one radius go
            together.
        seed: the same seed, batch size and attacks give the same result.
        resume_from: file that keeps the state after every batch; an evaluation that was killed goes on from
            there, with the same result. Removed when all is done. One of another evaluation is started over.
        progress: called with (name of the attack, examples done, examples to do) after each batch.
        notice: called with a sentence when something is done otherwise, such as smaller batches.
        examine: look for signs that the attacks failed, on a sample of the examples: `Evaluation.verdict` and
            `Evaluation.warnings`.

    Raises:
        InputError: an unknown suite, or anything `Attack.run` refuses.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.evaluate(torch.nn.Identity(), x, y, "linf:0.2", attacks="fast")
    >>> found.robust_accuracy, found.verified_accuracy
    (0.5, 0.5)
    """
    threat, loss, training = as_threat(threat), as_loss(loss), model.training
    cascade = suite(attacks, threat)
    x, y = paired(model, x, y)
    if verify is None and verify_seconds not in (None, _defaults.VERIFY_SECONDS):
        raise InputError(
            "verify_seconds limits the bounds that verify asks for, got it without verify; add "
            "verify='auto' or leave it out."
        )
    verify_seconds = None if verify is None else verify_seconds
    if verify not in (None, "auto"):
        check_precision(model, x, "verified")
    if radii is not None:
        radii = as_tensor("radii", radii)
        if examples is not None or resume_from is not None:
            raise InputError("radii go with neither examples nor resume_from, got both; leave one out.")
        groups = balls_by_radius(threat, radii, len(x))
        parts = [
            evaluate(
                model,
                x[rows],
                y[rows],
                ball,
                attacks,
                verify=verify,
                loss=loss,
                verify_seconds=None if verify_seconds is None else verify_seconds * len(rows) / len(x),
                batch_size=batch_size,
                drop_broken=drop_broken,
                seed=seed,
                progress=progress,
                notice=notice,
                examine=False,
            )
            for rows, ball in groups
        ]
        result = together(parts, torch.cat([rows for rows, _ in groups]))
        if not examine:
            return result
        return examined(
            model,
            x,
            y,
            threat,
            result,
            radii=radii,
            training=training,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            notice=notice,
        )
    device = _tensors.device_of(model, x)
    checked_model(model, x[:4].to(device), y.to(device))
    x, y, population = x.detach().cpu(), y.cpu(), None
    rows = drawn(len(x), examples, seed)
    if rows is not None:
        x, y, population = x[rows], y[rows], len(x)

    run = _Cascade(
        model=model,
        x=x,
        y=y,
        threat=threat,
        loss=loss,
        device=device,
        seed=seed,
        batch_size=batch_size or batch_size_for(model, x),
        progress=progress,
        notice=notice or (lambda text: None),
    )
    keep = None
    if resume_from is not None:
        key = fingerprint(model, x, y, threat, cascade, verify, loss, seed, batch_size, drop_broken)
        keep = ProgressFile(Path(resume_from), key)
    position = run.begin() if keep is None else keep.load() or run.begin()
    # The first attack is cheap and breaks most of what can be broken: bounds are spent on what it left.
    steps: list[Attack | str] = [*cascade[:1], *([verify] if verify else []), *cascade[1:]]
    # With a file, a signal waits for the end of its batch, and the state there is written.
    while position.stage < len(steps):  # again, where the caller's own handler of a signal lets it go on
        with stopping(at_safe_points=keep is not None) as stop:
            while position.stage < len(steps) and not stop():
                step = steps[position.stage]
                if isinstance(step, str):
                    run.prove(position, step, verify_seconds)
                else:
                    run.attack(position, step, drop_broken=drop_broken, keep=keep, stop=stop)
                position.stage += position.rows is None
            if keep is not None and stop():
                keep.save(position, now=True)
    result = position.evaluation(y, population)
    if examine:
        result = examined(
            model,
            x,
            y,
            threat,
            result,
            training=training,
            seed=seed,
            batch_size=run.batch_size,
            progress=progress,
            notice=notice,
        )
    if keep is not None:
        keep.remove()
    return result


def drawn(population: int, examples: int | None, seed: int) -> Tensor | None:
    """Rows of a random sample, in order; nothing where all examples are wanted, or no more than there are.

    Raises:
        InputError: a sample of none.
    """
    if examples is None or examples >= population:
        return None
    if examples < 1:
        raise InputError(f"examples must be >= 1, got {examples}; leave it out to evaluate every example.")
    return torch.randperm(population, generator=_tensors.generator(seed))[:examples].sort().values


class _Cascade:
    """The examples with all that does not change while they are attacked."""

    def __init__(
        self,
        *,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        loss: Loss,
        device: torch.device,
        seed: int,
        batch_size: int,
        progress: Progress | None,
        notice: Callable[[str], None],
    ) -> None:
        self.model, self.x, self.y, self.threat, self.loss = model, x, y, threat, loss
        self.device, self.seed, self.batch_size = device, seed, batch_size
        self.progress, self.notice = progress, notice

    def begin(self) -> Position:
        """Every example as it stands."""
        rows, parts, done = torch.arange(len(self.x)), [], 0
        while done < len(rows):
            found = self._fitting(CleanAttack(), rows[done:], 0)
            parts.append(found)
            done += len(found.x)
            if self.progress is not None:
                self.progress("clean", done, len(rows))
        losses = torch.cat([part.loss for part in parts])
        return Position.begin(self.x, losses, torch.cat([part.success for part in parts]))

    def prove(self, position: Position, method: str, seconds: float | None) -> None:
        """Bounds: with all means for what is still open, with plain ones for the loss of the others."""
        deadline = Deadline.after(seconds)
        began, open_ = time.perf_counter(), ~position.broken & ~position.verified
        rows = open_.nonzero().squeeze(1)
        try:
            methods = self._bound(position, rows, method, deadline.left)
        except (InputError, MemoryError, RuntimeError) as error:
            # Examples, labels and threat have been accepted: it is the model, or the memory.
            full = out_of_memory(error)
            if method != "auto" or not (full or isinstance(error, InputError)):
                raise
            why = "memory ran out; take fewer examples" if full else str(error)
            self._unproved(position, method, len(rows), time.perf_counter() - began, why)
            return
        entered, left = len(rows), int((open_ & ~position.verified).sum())
        if not deadline.over:
            rest = position.loss_bound.isinf().nonzero().squeeze(1)
            self._bound(position, rest, PLAIN.get(method, method), deadline.left)
        by = Counter(name for name, row in zip(methods, rows.tolist(), strict=True) if position.verified[row])
        note = "proved by " + ", ".join(f"{name} {count:,}" for name, count in by.most_common()) if by else ""
        position.stages.append(
            Stage(
                name=method,
                kind="bound",
                entered=entered,
                left=left,
                seconds=time.perf_counter() - began,
                note=note if method == "auto" else "",
            )
        )

    def _unproved(self, position: Position, method: str, entered: int, seconds: float, why: str) -> None:
        """The stage of bounds that could not be had."""
        self.notice(f"nothing is proved: {why}")
        position.stages.append(
            Stage(
                name=method,
                kind="bound",
                entered=entered,
                left=entered,
                seconds=seconds,
                note=f"nothing proved: {why}",
            )
        )

    def _bound(self, position: Position, rows: Tensor, method: str, seconds: float | None) -> tuple[str, ...]:
        """Bounds for these examples; what method each got its own from."""
        if len(rows) == 0:
            return ()
        proof = verified_bounds(
            self.model,
            self.x[rows].to(self.device),
            self.y[rows].to(self.device),
            self.threat,
            method=method,
            seconds=seconds,
            progress=self.progress,
        )
        position.verified[rows] |= proof.verified.cpu()
        position.loss_bound[rows] = _loss_bound(proof, self.loss)
        return proof.methods

    def attack(
        self,
        position: Position,
        attack: Attack,
        *,
        drop_broken: bool,
        keep: ProgressFile | None,
        stop: Callable[[], bool],
    ) -> None:
        """One attack on what is still open; ``position`` may stand in the middle of it, and be left there."""
        if position.rows is None:
            open_ = ~position.broken & ~position.verified
            position.rows = open_.nonzero().squeeze(1) if drop_broken else torch.arange(len(self.x))
            position.done, position.seconds, position.note = 0, 0.0, ""
            position.note = attack.refuses(self.threat)
            if position.note:
                position.done = len(position.rows)
        rows, number = position.rows, len(position.stages)
        entered = int((~position.broken & ~position.verified)[rows].sum()) + int(
            (position.broken_by[rows] == number).sum()
        )
        while position.done < len(rows):
            if stop():
                return
            began = time.perf_counter()
            found = self._fitting(attack, rows[position.done :], number + 1)
            size = len(found.x)
            position.take(rows[position.done : position.done + size], found, number)
            position.done = min(len(rows), position.done + size)
            position.seconds += time.perf_counter() - began
            if keep is not None:
                keep.save(position)
            if self.progress is not None:
                self.progress(attack.name, position.done, len(rows))
        left = entered - int((position.broken_by[rows] == number).sum())
        position.stages.append(
            Stage(
                name=attack.name,
                kind="attack",
                entered=entered,
                left=left,
                seconds=position.seconds,
                note=position.note,
            )
        )
        position.rows = None

    def _fitting(self, attack: Attack, rows: Tensor, stage: int) -> AttackResult:
        """The first rows, as many as memory allows."""
        found, self.batch_size = halving(
            lambda size: self._run(attack, rows[:size], stage), self.batch_size, self.notice
        )
        return found

    def _run(self, attack: Attack, rows: Tensor, stage: int) -> AttackResult:
        """One batch; its randomness depends on the seed, the stage and the first row alone, so that it can
        be repeated.
        """
        first = int(rows[0]) if len(rows) else 0
        noise = _tensors.generator((self.seed * 1_000_003 + stage * 7_919 + first) % 2**63, self.device)
        found = attack.run(
            self.model,
            self.x[rows].to(self.device),
            self.y[rows].to(self.device),
            self.threat,
            loss=self.loss,
            generator=noise,
        )
        return AttackResult(x=found.x.cpu(), loss=found.loss.cpu(), success=found.success.cpu())


def _loss_bound(proof: Verification, loss: Loss) -> Tensor:
    """An upper bound of the loss; infinite for a loss that margins do not bound."""
    try:
        return proof.loss_upper_bound(loss)
    except InputError:
        return torch.full((len(proof.y),), torch.inf, dtype=torch.float64)
