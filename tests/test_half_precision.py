"""Half precision: its rounding must never make a model look more robust."""

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks import APGD, FAB, FGSM, PGD, Attack, CarliniWagner, DeepFool, Square
from holdfast.evaluation import evaluate
from holdfast.losses import CrossEntropy
from holdfast.threats import CustomThreat, LpBall, SphereSlice, Threat
from holdfast.threats._half import neighbour
from holdfast.verification import smooth

HALVES = (torch.float16, torch.bfloat16)
FEATURES = 12
BOX = (0.0, 1.0)
BALLS = (LpBall("inf", 8 / 255, bounds=BOX), LpBall("2", 0.12, bounds=BOX), LpBall("1", 0.4, bounds=BOX))
THREATS = (
    *BALLS,
    LpBall("inf", 0.1),
    LpBall("inf", 0.1, bounds=(0.0, 0.7)),
    LpBall("2", 0.3, fixed=torch.arange(FEATURES) % 3 == 0),
    SphereSlice(0.3),
    CustomThreat(lambda p, x: torch.minimum(torch.maximum(p, x - 0.05), x + 0.05), radius_hint=0.2),
)


def examples(dtype: torch.dtype, batch: int = 16) -> Tensor:
    drawn = torch.rand(batch, FEATURES, generator=torch.Generator().manual_seed(0))
    return (0.1 + 0.6 * drawn).to(dtype)


class Edge(nn.Module):
    """Linear, and right on every example by less than the ball can take away: broken near its worst corner alone."""

    def __init__(self, x: Tensor, threat: LpBall, share: float) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 2, bias=False, dtype=torch.float64)
        w = torch.where(torch.arange(FEATURES) % 2 == 0, 1.0, -1.0).double()
        w = w if threat.norm == "inf" else w * torch.linspace(0.5, 1.0, FEATURES).double()
        self.layer.weight = nn.Parameter(torch.stack([w, 0 * w]))
        self.layer.to(x.dtype)
        exact, weight = x.double(), self.layer.weight[0].detach().double()
        worst = threat.maximise(-weight.expand_as(exact), exact)
        self.fall = ((exact - worst) @ weight * share).float()
        self.centre = (exact @ weight).float()
        self.x = x.float()

    def forward(self, points: Tensor) -> Tensor:
        rows = torch.cdist(points.detach().float(), self.x).argmin(1)
        high = self.layer(points)[:, :1].float()
        return torch.cat([high - self.centre[rows, None] + self.fall[rows, None], 0 * high], 1)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.spec)
def test_projected_and_random_points_lie_in_the_set_and_reach_its_edge(
    threat: Threat, dtype: torch.dtype
) -> None:
    x = examples(dtype)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    inside = threat.project_inside(x + 3 * noise, x)
    drawn = threat.sample(x, generator=torch.Generator().manual_seed(2))
    assert inside.dtype == drawn.dtype == dtype
    assert threat.contains(inside, x).all()
    assert threat.contains(drawn, x).all()
    assert not (drawn == x).all(1).any()
    wide = threat.project_inside(x.float() + 3 * noise.float(), x.float())
    reached, possible = (((p.double() - x.double()).norm(dim=1)) for p in (inside, wide))
    assert (reached > 0.8 * possible).all()
    assert threat.project_inside(inside, x).equal(inside)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.spec)
@pytest.mark.parametrize(
    "attack",
    [
        FGSM(),
        PGD(steps=40, keep_best=True),
        APGD(steps=30),
        APGD(steps=30, targets=1, drop_broken=True),
        FAB(steps=10),
        DeepFool(),
        CarliniWagner(),
        Square(queries=400),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_break_in_half_precision_what_they_break_in_float32(
    attack: Attack, threat: LpBall, dtype: torch.dtype
) -> None:
    share = 0.5 if isinstance(attack, Square) or (isinstance(attack, FGSM) and threat.norm == "1") else 0.75
    if isinstance(attack, FGSM) and threat.norm == "1":
        return  # one sparse step reaches little in any dtype
    x = examples(dtype)
    y = torch.zeros(len(x)).long()
    found = attack.run(Edge(x, threat, share), x, y, threat)
    wide = attack.run(Edge(x.float(), threat, share), x.float(), y, threat)
    assert found.x.dtype == dtype
    assert found.loss.dtype == torch.float32
    assert threat.contains(found.x, x).all()
    assert int(found.success.sum()) >= int(wide.success.sum())
    assert int(wide.success.sum()) > 2


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.spec)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "attack", [Square(queries=200), FAB(steps=10), APGD(steps=10)], ids=lambda attack: attack.name
)
def test_a_success_is_one_of_the_point_that_comes_back(
    attack: Attack, threat: LpBall, targeted: bool, dtype: torch.dtype
) -> None:
    """Near the edge of what can be broken, where rounding into the ball decides; asked of the model in its own dtype."""
    x = examples(dtype, 60)
    y = torch.zeros(len(x)).long()
    model = Edge(x, threat, 0.8)
    found = attack.run(model, x, y, threat, targets=1 - y if targeted else None)
    assert found.x.dtype == dtype
    assert threat.contains(found.x, x).all()
    outputs = model(found.x)
    broken = outputs[:, 1] > outputs[:, 0] if targeted else outputs[:, 1] >= outputs[:, 0]
    assert found.success.equal(broken)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("threat", BALLS[1:], ids=lambda threat: threat.spec)
def test_square_goes_on_where_rounding_into_the_ball_repairs_a_point(
    threat: LpBall, dtype: torch.dtype
) -> None:
    x = examples(dtype, 100)
    y = torch.zeros(len(x)).long()
    assert Square(queries=400).run(Edge(x, threat, 0.5), x, y, threat).success.all()


class Asked(Edge):
    """Keeps what it was asked with gradients: an iterate of each row still searched."""

    def forward(self, points: Tensor) -> Tensor:
        if points.requires_grad:
            self.last = points.detach()
        return super().forward(points)


@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.spec)
def test_fab_goes_on_where_rounding_into_the_ball_repairs_a_point(threat: LpBall) -> None:
    """Without patience rows leave once they are broken, and only then."""
    x = examples(torch.bfloat16, 100)
    y = torch.zeros(len(x)).long()
    model = Asked(x, threat, 0.99)
    found = FAB(steps=10, patience=None).run(model, x, y, threat)
    missed = int((~found.success).sum())
    assert missed > 0
    assert len(model.last) >= missed
    assert model.last.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_suites_and_training_points_in_half_precision(dtype: torch.dtype) -> None:
    x = examples(dtype, 6)
    y = torch.zeros(len(x)).long()
    for threat in BALLS:
        result = evaluate(
            Edge(x, threat, 0.7),
            x,
            y,
            threat,
            [APGD(steps=20), FAB(steps=10), Square(queries=30)],
            verify=None,
        )
        assert result.clean_accuracy == 1
        assert result.robust_accuracy == 0
        assert result.x.dtype == dtype
        points = PGD(steps=20).points(
            Edge(x, threat, 0.7), x, y, threat, generator=torch.Generator(), loss=CrossEntropy()
        )
        assert points.dtype == dtype
        assert threat.contains(points, x).all()
        assert (points != x).any(1).all()


def test_smoothing_draws_its_noise_in_float32() -> None:
    class Seen(nn.Module):
        """Counts noise too small for half precision at 1: rounded, it is none."""

        def forward(self, x: Tensor) -> Tensor:
            up = (x[:, :1] > 1).float()
            return torch.cat([up, 1 - up], 1) * 3 - 1

    x = torch.ones(1, 1, dtype=torch.float16)
    found = smooth(Seen(), x, torch.ones(1).long(), sigma=1e-4, samples=2000)
    assert int(found.predicted) == 1  # nearly all noise rounds away, as the model would see it


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_next_number_of_half_precision(dtype: torch.dtype) -> None:
    least = torch.zeros(1, dtype=torch.int16).add(1).view(dtype)
    values = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 0.5], dtype=dtype)
    towards = torch.tensor([2.0, 0.0, 0.0, -2.0, 1.0, -1.0, 0.5], dtype=dtype)
    found = neighbour(values, towards)
    step = torch.finfo(dtype).eps
    wanted = torch.tensor([1 + step, 1 - step / 2, step / 2 - 1, -1 - step, 0, 0, 0.5], dtype=dtype)
    wanted[4], wanted[5] = least[0], -least[0]
    assert found.equal(wanted)
