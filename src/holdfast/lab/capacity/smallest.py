"""The smallest width that fits, by bisection: what fits is proved to, what is too narrow by theory is not
tried.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast._rules import COUNT, FLAG, FUNCTION, SEED, either, maybe, several, takes, word
from holdfast._tensors import flatten, generator
from holdfast.data import Dataset
from holdfast.data.base import DATASET
from holdfast.errors import InputError
from holdfast.lab.capacity.nets import Nets, Shape, drawn, stacked
from holdfast.lab.capacity.proof import Proof, prove
from holdfast.lab.capacity.results import Attempt, Bracket, Capacity, Outcome, Widths
from holdfast.lab.capacity.training import Look, trained
from holdfast.theory.capacity import bounds, robustness_ratio
from holdfast.threats import THREAT, LpBall, Threat, as_threat, is_ball

NETWORKS = {"two-layer": 1, "three-layer": 2}
WIDTHS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64)
TRIED = 2  # restarts per seed that are worth a long proof, at the end
FEW = 20  # parts of a ball for a first try at a proof

Progress = Callable[[str], None]


@takes(
    data=DATASET,
    threat=THREAT,
    network=word(*NETWORKS),
    widths=several(COUNT),
    seeds=either(COUNT, several(SEED)),
    robust=FLAG,
    restarts=COUNT,
    steps=COUNT,
    parts=COUNT,
    progress=maybe(FUNCTION),
)
def smallest_width(
    data: Dataset,
    threat: Threat | str,
    *,
    network: str = "two-layer",
    widths: Sequence[int] = WIDTHS,
    seeds: int | Sequence[int] = 3,
    robust: bool = True,
    restarts: int = 8,
    steps: int = 1000,
    parts: int = 3000,
    progress: Progress | None = None,
) -> Capacity:
    """The least of these widths at which a ReLU network fits the training part plainly, and robustly.

    From each seed the widths are bisected: ``restarts`` networks are trained at once on all examples (half of
    them from Gaussian weights, half from units between labels), and one fits if it is *proved* right on every
    point of every threat set, by bounds and by branch and bound; for the plain fit, on every example. So each
    seed gives a bracket: its least verified width holds for every training, since a wider network has units
    of weight 0 to spare; the widths at which no restart fitted are observed, not proved, to be too narrow;
    and those below the bound of `holdfast.theory.capacity` are proved to be, and not tried. Bisection
    supposes that training that fails at one width fails below it.

    Args:
        data: the training part is fitted; a few hundred examples at most are sensible.
        threat: an l2, l-inf or l1 ball.
        network: ``two-layer`` (one hidden layer) or ``three-layer`` (two hidden layers of equal width).
        widths: in any order.
        seeds: how many (0, 1, ..), or which.
        robust: ``False`` for the plain fit alone.
        restarts: networks trained at each width from each seed.
        steps: of training, at most.
        parts: into which one ball is cut at most to prove a fit.
        progress: called with a sentence when a training begins.

    Raises:
        InputError: data, threat or settings outside of these; threat sets of different labels that meet.

    >>> import holdfast as hf
    >>> data = hf.data.forced(dimension=2)
    >>> found = hf.capacity.smallest_width(data, "l2:0.1", widths=[1], seeds=1, robust=False)
    >>> found.plain.smallest
    [1]
    """
    tried = sorted(set(widths))
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    threat = as_threat(threat)
    if not is_ball(threat):
        raise InputError(f"threat must be an l2, l-inf or l1 ball, got {threat.spec}; use one as in l2:0.1.")
    rho = robustness_ratio(data, threat)
    if robust and rho >= 1:
        raise InputError(
            f"threat sets of different labels must not meet for a robust fit, got rho = {rho:.4g}; lower "
            "the radius below 1 / rho of it."
        )
    known = bounds(data, threat, hidden_layers=NETWORKS[network])
    search = _WidthSearch(
        data=data, hidden=NETWORKS[network], restarts=restarts, steps=steps, parts=parts, progress=progress
    )
    impossible = next(int(b.value) for b in known if b.fit == "robust" and b.of == "first hidden width")
    return Capacity(
        data=data.name,
        threat=threat.spec,
        network=network,
        examples=len(data.train),
        dimension=data.features,
        rho=rho,
        plain=search.bisected(tried, chosen, None, 1),
        robust=search.bisected(tried, chosen, threat, impossible) if robust else None,
        bounds=known,
    )


@dataclass(frozen=True, kw_only=True)
class _WidthSearch:
    """Settings that every training shares."""

    data: Dataset
    hidden: int
    restarts: int
    steps: int
    parts: int
    progress: Progress | None

    def bisected(
        self, widths: list[int], seeds: tuple[int, ...], threat: LpBall | None, impossible_below: int
    ) -> Widths:
        """One bracket per seed; seeds at the same width are trained together."""
        first = next((i for i, width in enumerate(widths) if width >= impossible_below), len(widths))
        low, high = dict.fromkeys(seeds, first), dict.fromkeys(seeds, len(widths))
        attempts: list[Attempt] = []
        while open_ := [seed for seed in seeds if low[seed] < high[seed]]:
            middle = {seed: (low[seed] + high[seed]) // 2 for seed in open_}
            place = min(middle.values())
            together = [seed for seed in open_ if middle[seed] == place]
            for attempt in self.attempted(widths[place], together, threat):
                attempts.append(attempt)
                if attempt.outcome == "verified":
                    high[attempt.seed] = place
                else:
                    low[attempt.seed] = place + 1
        return Widths(
            brackets=tuple(
                Bracket(
                    seed=seed,
                    smallest=widths[high[seed]] if high[seed] < len(widths) else None,
                    impossible_below=impossible_below,
                    failed=tuple(
                        sorted(a.width for a in attempts if a.seed == seed and a.outcome != "verified")
                    ),
                )
                for seed in seeds
            ),
            attempts=tuple(attempts),
        )

    def attempted(self, width: int, seeds: list[int], threat: LpBall | None) -> list[Attempt]:
        """Train every restart of these seeds at this width and prove what fits."""
        if self.progress is not None:
            self.progress(
                f"width {width}, {'plain' if threat is None else 'robust'}, seeds "
                f"{', '.join(map(str, seeds))}"
            )
        began = time.perf_counter()
        part = self.data.train
        x, y = part.x.cpu().float(), part.y.cpu()
        outputs = 1 if self.data.classes == 2 else self.data.classes
        shape = Shape(features=self.data.features, width=width, hidden=self.hidden, outputs=outputs)
        random = [generator(1_000_003 * seed + width) for seed in seeds]
        nets = stacked([drawn(shape, self.restarts, flatten(x), y, one) for one in random])
        states = [_Seed() for _ in seeds]
        for look in trained(nets, x, y, threat, steps=self.steps, random=random):
            for number, state in enumerate(states):
                if state.outcome != "verified":
                    mine = range(number * self.restarts, (number + 1) * self.restarts)
                    self._look(state, nets, mine, look, threat)
            if all(state.outcome == "verified" for state in states):
                break
        seconds = time.perf_counter() - began
        return [
            Attempt(
                width=width,
                seed=seed,
                outcome=state.outcome,
                margin=state.margin,
                restarts=self.restarts,
                steps=state.steps,
                seconds=seconds,
            )
            for seed, state in zip(seeds, states, strict=True)
        ]

    def _look(self, state: "_Seed", nets: Nets, mine: range, look: Look, threat: LpBall | None) -> None:
        """Try to prove the restarts that withstood attacks, the widest margin first."""
        state.steps = look.step
        margins = look.margins[mine.start : mine.stop]
        order = margins.argsort(descending=True).tolist()
        state.margin = float(margins[order[0]])
        standing = [mine.start + k for k in order if float(margins[k]) > 0]
        open_: list[int] = []
        for number in standing:
            proof = self._proved(nets, number, threat, FEW)
            if proof.outcome == "verified":
                state.verify(float(look.margins[number]))
                return
            if proof.outcome == "undecided":
                open_.append(number)
        if look.last:
            for number in open_[:TRIED]:
                proof = self._proved(nets, number, threat, self.parts)
                if proof.outcome == "verified":
                    state.verify(float(look.margins[number]))
                    return
                if proof.outcome == "refuted":
                    open_.remove(number)
            state.outcome = "undecided" if open_ else "refuted"

    def _proved(self, nets: Nets, number: int, threat: LpBall | None, parts: int) -> Proof:
        part = self.data.train
        return prove(nets.module(number), part.x.cpu().double(), part.y.cpu(), threat, parts=parts)


@dataclass(kw_only=True)
class _Seed:
    """How one seed fares while its restarts are trained."""

    margin: float = -math.inf
    outcome: Outcome = "refuted"
    steps: int = 0

    def verify(self, margin: float) -> None:
        self.outcome, self.margin = "verified", margin
