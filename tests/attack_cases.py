"""Small nets, threats of every kind, and the contract that every attack on norm balls keeps."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.attacks import Attack
from holdfast.losses import CrossEntropy, correct
from holdfast.threats.lp import LpBall

FEATURES = 9
NORMS = ("inf", "2", "1")
RADII = {"inf": 0.2, "2": 0.4, "1": 0.8}
KINDS = ("box", "none", "fixed", "own")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination of threat, net and dtype."""

    norm: str
    kind: str
    outputs: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"l{self.norm}-{self.kind}-{self.outputs}-{str(self.dtype)[-2:]}"


CASES = [
    Case(norm=norm, kind=kind, outputs=outputs, dtype=dtype)
    for norm, kind, (outputs, dtype) in itertools.product(
        NORMS, KINDS, [(1, torch.float32), (2, torch.float64), (3, torch.float32), (10, torch.float64)]
    )
]


def threat_of(norm: str, kind: str, scale: float = 1.0) -> LpBall:
    """A threat of this kind; ``own``: bounds for each feature, far from [0, 1], with the radius in proportion."""
    radius = RADII[norm] * scale
    if kind == "box":
        return LpBall(norm, radius, bounds=(0.0, 1.0))
    if kind == "none":
        return LpBall(norm, radius)
    if kind == "fixed":
        return LpBall(norm, radius, bounds=(0.0, 1.0), fixed=torch.arange(FEATURES) % 3 == 0)
    low = torch.linspace(-70.0, -20.0, FEATURES)
    return LpBall(norm, 60 * radius, bounds=(low, low + 60))


def network(outputs: int, dtype: torch.dtype, kind: str = "box") -> nn.Sequential:
    """A smooth random net; for ``own`` bounds it first brings its input back to [0, 1]."""
    with torch.random.fork_rng():
        torch.manual_seed(outputs)
        layers = [nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, outputs)]
        if kind == "own":
            back = nn.Linear(FEATURES, FEATURES)
            back.weight.data = torch.eye(FEATURES) / 60
            back.bias.data = -torch.linspace(-70.0, -20.0, FEATURES) / 60
            layers.insert(0, back)
        return nn.Sequential(*layers).to(dtype)


def examples(case: Case, batch: int = 24) -> tuple[Tensor, Tensor]:
    """Points of the case's box, labelled as its net sees them, but for every sixth."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, FEATURES, generator=generator, dtype=torch.float64)
    if case.kind == "own":
        x = torch.linspace(-70.0, -20.0, FEATURES, dtype=torch.float64) + 60 * x
    x = x.to(case.dtype)
    if case.kind == "own":
        x = torch.clamp(x, *(edge.to(case.dtype) for edge in threat_of("2", "own").bounds or ()))
    with torch.no_grad():
        outputs = network(case.outputs, case.dtype, case.kind)(x)
    y = (outputs[:, 0] > 0).long() if case.outputs == 1 else outputs.argmax(1)
    y[::6] = (y[::6] + 1) % max(2, case.outputs)
    return x, y


def check_contract(attack: Attack, case: Case, scale: float = 1.0) -> None:
    """Points inside, fixed features still, success as claimed and never lost, the same seed the same bits, examples untouched."""
    model, threat = network(case.outputs, case.dtype, case.kind), threat_of(case.norm, case.kind, scale)
    x, y = examples(case)
    original = x.clone()
    first, second = (attack.run(model, x, y, threat, seed=3) for _ in range(2))
    assert torch.equal(x, original)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.loss, second.loss)
    assert first.x.dtype == case.dtype
    assert bool(threat.contains(first.x, x).all())
    if threat.fixed is not None:
        assert torch.equal(first.x[:, threat.fixed], x[:, threat.fixed])
    with torch.no_grad():
        outputs, clean = model(first.x), model(x)
    assert torch.equal(first.success, ~correct(outputs, y))
    torch.testing.assert_close(first.loss, CrossEntropy()(outputs, y))
    assert bool((first.success | correct(clean, y)).all())  # what was broken stays broken
    # An attack that finds nothing would keep the contract too.
    assert int(first.success.sum()) > int((~correct(clean, y)).sum())


class Witness(nn.Module):
    """A model that remembers, of one example, whether it ever saw a misclassified point well inside the threat set."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: LpBall) -> None:
        super().__init__()
        self.model, self.x, self.y = model, x, y
        self.inner = threat.with_radius(threat.radius * (1 - 1e-4))
        self.seen = False

    def forward(self, points: Tensor) -> Tensor:
        outputs: Tensor = self.model(points)
        centre = self.x.expand_as(points)
        broken = ~correct(outputs.detach(), self.y.expand(len(points)))
        self.seen |= bool((broken & self.inner.contains(points.detach(), centre)).any())
        return outputs


def check_nothing_lost(attack: Attack, case: Case, scale: float) -> int:
    """What the search saw broken, `run` returns broken, example by example; how many were."""
    model, threat = network(case.outputs, case.dtype, case.kind), threat_of(case.norm, case.kind, scale)
    x, y = examples(case)
    seen = 0
    for row in range(1, 6):
        witness = Witness(model, x[row : row + 1], y[row : row + 1], threat)
        result = attack.run(witness, x[row : row + 1], y[row : row + 1], threat)
        assert bool(result.success) >= witness.seen
        seen += witness.seen
    return seen


def check_towards_a_class(attack: Attack, norm: str, radius: float, outputs: int) -> None:
    """A targeted run reaches the class it says it reaches, and mostly does."""
    case = Case(norm=norm, kind="box", outputs=outputs, dtype=torch.float64)
    model, threat = network(outputs, torch.float64), threat_of(norm, "box", radius)
    x, y = examples(case)
    with torch.no_grad():
        targets = model(x).scatter(1, y[:, None], -torch.inf).argmax(1) if outputs > 1 else 1 - y
    result = attack.run(model, x, y, threat, targets=targets)
    with torch.no_grad():
        assert torch.equal(result.success, correct(model(result.x), targets))
    assert int(result.success.sum()) > len(x) // 2
