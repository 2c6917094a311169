"""The recorder: windows are the weighted sums they claim to be, valid for any optimiser, and void whenever a round is not one."""

import math
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from certificate_cases import (
    DOUBLE,
    LOSSES,
    Copies,
    draws,
    examples,
    hunted_slack,
    lower_at,
    move,
    network,
    normal,
    one_round,
    random_moves,
    record_round,
    worst_slack,
)
from holdfast.curvature import Curvature, LocalLinearity
from holdfast.errors import InputError
from holdfast.families import TwoLayerCurvature
from holdfast.losses import CrossEntropy, Loss
from holdfast.networks import TwoLayer
from holdfast.threats import LpBall
from holdfast.threats._half import neighbour
from holdfast.trace import TraceRecorder, Window
from holdfast.trace.marks import marks
from holdfast.trace.soundness import probed_fault

THREAT = LpBall("2", 0.2)


def recorder_for(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss | None = None,
    radius: float = 2.0,
    curvature: Curvature | None = None,
    weights: Tensor | None = None,
) -> TraceRecorder:
    return TraceRecorder(
        net,
        x,
        y,
        THREAT,
        loss or CrossEntropy(),
        curvature=curvature or TwoLayerCurvature(),
        radius=radius,
        example_weights=weights,
    )


def attacked(x: Tensor, draw: torch.Generator) -> Tensor:
    return THREAT.project_inside(x + normal(draw, *x.shape), x)


def epoch(
    recorder: TraceRecorder, optimizer: torch.optim.Optimizer, batch: int, draw: torch.Generator
) -> Tensor:
    """One epoch without replacement; returns the attacked point of every example."""
    n = len(recorder.y)
    points = torch.empty_like(recorder.x)
    for rows in torch.randperm(n, generator=draw).split(batch):
        points[rows] = attacked(recorder.x[rows], draw)
        record_round(recorder, rows, points[rows])
        optimizer.step()
    return points


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9),
    "adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.05),
    "far outside the ball": lambda net: torch.optim.SGD(net.parameters(), lr=8.0),
    "weight decay": lambda net: torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["softplus", "relu", "relu2", "gelu"])
def test_minibatch_window_is_below_the_loss_at_its_points(activation: str, optimizer: str) -> None:
    shape, loss = ("signed", LOSSES["hinge"]) if optimizer == "adam" else ("binary", CrossEntropy())
    net = network(activation, shape, seed=3)
    x, y = examples(shape, count=11)  # batches of 4, 4 and 3
    recorder, draw = recorder_for(net, x, y, loss=loss), draws(5)
    steps = OPTIMIZERS[optimizer](net)
    for _ in range(3):
        recorder.open()
        points = epoch(recorder, steps, 4, draw)
        window = recorder.close()
        assert window.void == ""
        assert window.lower is not None
        copies = Copies(net, recorder.initial, points, y, loss)
        assert hunted_slack(copies, window.lower, 1, random=60, climbing=6, steps=20) >= -1e-12
    if optimizer.startswith("far"):
        assert window.drift[0] > recorder.radius


def test_several_epochs_make_one_window() -> None:
    net = network("softplus")
    x, y = examples("binary", count=9)
    recorder, draw = recorder_for(net, x, y), draws(2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    recorder.open(epochs=3)
    points = torch.cat([epoch(recorder, optimizer, 4, draw) for _ in range(3)])
    window = recorder.close()
    assert window.void == ""
    assert (window.first, window.last) == (1, 9)
    assert window.lower is not None
    assert (
        hunted_slack(Copies(net, recorder.initial, points, y.repeat(3), CrossEntropy()), window.lower, 0)
        >= -1e-12
    )


def test_window_is_the_weighted_sum_of_its_rounds() -> None:
    """A second route: every round's lower model from its formula, at random weights, added up with w_t."""
    net = network("gelu", "signed")
    x, y = examples("signed", count=7)
    recorder, draw = recorder_for(net, x, y), draws(4)
    moves = random_moves([recorder.initial["weight"]], 40, draw, low=0.1, high=10.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    recorder.open()
    total = torch.zeros(40, dtype=DOUBLE)
    for rows in torch.randperm(7, generator=draw).split(3):
        points = attacked(x[rows], draw)
        at = net.weight.detach().clone()
        value = record_round(recorder, rows, points)
        gradient = net.weight.grad
        assert gradient is not None
        slopes = CrossEntropy().slope(net(points).detach(), y[rows]) / len(rows)
        ((block,),) = TwoLayerCurvature().round(net, points, slopes, reach=2.0).balls
        assert block.matrices is not None
        of_unit = block.matrices.repeat_interleave(net.width // len(block.matrices), 0)
        step = recorder.initial["weight"] + moves[0] - at
        q = torch.einsum("smd,mde,sme->s", step, of_unit, step)
        total += len(rows) / 7 * (value + (gradient * step).sum((1, 2)) - q)
        optimizer.step()
    window = recorder.close()
    assert window.lower is not None
    torch.testing.assert_close(lower_at(window.lower, moves), total, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        torch.tensor([window.lower.value(((u,),)) for u in moves[0]], dtype=DOUBLE),
        total,
        rtol=1e-11,
        atol=1e-12,
    )


def test_example_weights_replace_one_over_n() -> None:
    net = network("softplus")
    x, y = examples("binary", count=9)
    weights = torch.rand(9, dtype=DOUBLE, generator=draws(1))
    weights[2] = 0.0
    weights /= weights.sum()
    recorder = recorder_for(net, x, y, weights=weights)
    recorder.open()
    points = epoch(recorder, torch.optim.SGD(net.parameters(), lr=0.5), 4, draws(6))
    window = recorder.close()
    assert window.lower is not None
    copies = Copies(net, recorder.initial, points, y, CrossEntropy(), weights)
    assert hunted_slack(copies, window.lower, 0) >= -1e-12
    # It is this weighting's model, not the uniform one's: both agree with their loss only at the recorded weights.
    frozen, draw = recorder_for(net, x, y, weights=weights), draws(0)
    frozen.open()
    record_round(frozen, torch.arange(9), attacked(x, draw))
    assert frozen.close().lower is not None


def test_negative_example_weights_are_refused() -> None:
    x, y = examples("binary", count=3)
    with pytest.raises(InputError, match="example_weights"):
        recorder_for(network("softplus"), x, y, weights=torch.tensor([1.0, -0.5, 0.5], dtype=DOUBLE))


def test_trained_outputs_over_minibatches() -> None:
    net = network("tanh", "signed", train_output=True)
    x, y = examples("signed", count=7)
    recorder = recorder_for(net, x, y)
    recorder.open()
    points = epoch(recorder, torch.optim.Adam(net.parameters(), lr=0.1), 3, draws(6))
    window = recorder.close()
    assert window.lower is not None
    assert hunted_slack(Copies(net, recorder.initial, points, y, CrossEntropy()), window.lower, 0) >= -1e-12


# Coverage.


def recorded_rows(
    batches: list[list[int]], *, epochs: int = 1, subset: bool = False, loss: Loss | None = None
) -> Window:
    net = network("softplus")
    x, y = examples("binary", count=6)
    recorder = recorder_for(net, x, y, loss=loss)
    recorder.open(epochs=epochs, subset=subset)
    for rows in batches:
        record_round(recorder, torch.tensor(rows), x[rows])
    return recorder.close()


class Shifted(CrossEntropy):
    """A loss that can be negative."""

    nonnegative = False


def test_missing_example_voids() -> None:
    assert "fewer" in recorded_rows([[0, 1, 2], [3, 4]]).void
    assert "fewer" in recorded_rows([[0, 1, 2, 3, 4, 5]], epochs=2).void


def test_subset_is_allowed_for_losses_that_are_not_negative() -> None:
    window = recorded_rows([[0, 1, 2], [3, 4]], subset=True)
    assert window.void == ""
    assert "fewer" in recorded_rows([[0, 1, 2], [3, 4]], subset=True, loss=Shifted()).void
    assert recorded_rows([[0, 1, 2], [3, 4, 5]], subset=True, loss=Shifted()).void == ""
    net = network("softplus")
    x, y = examples("binary", count=6)
    assert window.lower is not None
    assert (
        hunted_slack(Copies(net, {"weight": net.weight.detach()}, x, y, CrossEntropy()), window.lower, 0)
        >= -1e-12
    )


def test_repeated_example_voids() -> None:
    assert "more than 1" in recorded_rows([[0, 1, 2], [3, 4, 5, 5]]).void
    assert "more than 1" in recorded_rows([[0, 1, 2], [3, 4, 4]]).void
    assert "more than 1" in recorded_rows([[0, 1, 2], [3, 4, 4]], subset=True).void
    assert recorded_rows([[0, 1, 2, 3, 4, 5]] * 2, epochs=2).void == ""
    # Equal totals do not hide it.
    assert recorded_rows([[0, 1, 2, 3, 4, 4]] * 2, epochs=2).void != ""


def test_void_windows_claim_nothing() -> None:
    window = recorded_rows([[0, 1]])
    assert window.lower is None
    assert math.isnan(window.lower_bound)


# Rounds that are not rounds of f.


def fault_of(change: Callable[[Tensor, Tensor], Tensor], model: nn.Module | None = None) -> str:
    """The reason given for one full round whose points were changed."""
    net = model or network("softplus")
    x, y = examples("binary", count=6)
    recorder = recorder_for(net, x, y, curvature=LocalLinearity() if model is not None else None)
    points = change(x, torch.randperm(6, generator=draws(3)))
    recorder.open()
    recorder.record(torch.arange(6), points, net(points).detach(), round_size=6)
    return recorder.close().void


def honest(x: Tensor, mixed: Tensor) -> Tensor:
    return x


def test_honest_round_is_sound() -> None:
    assert fault_of(honest) == ""


def test_point_outside_its_threat_set() -> None:
    def outside(x: Tensor, mixed: Tensor) -> Tensor:
        points = x.clone()
        points[4, 0] += 0.2 * (1 + 1e-12)
        return points

    assert (
        fault_of(outside)
        == "1 attacked points lie outside their threat sets, so the rounds are not below the robust loss"
    )


def test_not_finite_point() -> None:
    def broken(x: Tensor, mixed: Tensor) -> Tensor:
        points = x.clone()
        points[1, 0] = math.nan
        return points

    assert "outside" in fault_of(broken)


@pytest.mark.parametrize("when", ["before the round", "between rounds", "after the last round"])
@pytest.mark.parametrize("numpy", [False, True], ids=["torch", "numpy"])
def test_overwritten_data_void_a_window(when: str, numpy: bool) -> None:
    """By any way to the same memory, also by one that no tensor's version counts; the points lie in the sets of the new examples."""
    draw = torch.Generator().manual_seed(3)
    net = TwoLayer(4, 2, width=8).double()
    x, y = normal(draw, 6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    recorder = recorder_for(net, x, y)
    recorder.open()
    for number, rows in enumerate(torch.arange(6).split(2)):
        if (number, when) in ((0, "before the round"), (1, "between rounds")):
            overwrite(x, numpy)
        record_round(recorder, rows, attacked(x[rows], draw))
    if when == "after the last round":
        overwrite(x, numpy)
    assert recorder.close().void.startswith("1 training examples were overwritten while training")


def test_data_overwritten_for_one_round_void_a_window() -> None:
    """And put back before the window closes."""
    draw = torch.Generator().manual_seed(3)
    x, y = normal(draw, 6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    recorder, kept = recorder_for(TwoLayer(4, 2, width=8).double(), x, y), x.clone()
    recorder.open()
    for rows in torch.arange(6).split(2):
        overwrite(x, numpy=False)
        record_round(recorder, rows, attacked(x[rows], draw))
        x.copy_(kept)
    assert recorder.close().void.startswith("1 training examples were overwritten while training")


def overwrite(x: Tensor, numpy: bool) -> None:
    if numpy:
        x.numpy()[5, 2] += 1.0
    else:
        x[5, 2] += 1.0


def test_overwritten_labels_are_not_those_of_the_trace() -> None:
    draw = torch.Generator().manual_seed(3)
    net = TwoLayer(4, 2, width=8).double()
    x, y = normal(draw, 6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    recorders = [recorder_for(net, x, labels) for labels in (y, y.clone())]
    y.fill_(0)
    for recorder in recorders:
        recorder.open()
        record_round(recorder, torch.arange(6), x)
    first, second = (recorder.close() for recorder in recorders)
    assert first.online_loss == second.online_loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_marks_show_every_change_of_one_feature(dtype: torch.dtype) -> None:
    x = normal(torch.Generator().manual_seed(0), 40, 3, 4).to(dtype)
    before = marks(x)
    assert torch.equal(before, marks(x.clone()))
    for row in range(40):
        for feature in range(12):
            changed = x[row : row + 1].clone()
            flat = changed.view(-1)
            flat[feature] = neighbour(flat[feature], torch.full((), 9.0, dtype=dtype))
            assert marks(changed) != before[row]


def test_mixup_is_caught_by_its_points() -> None:
    assert "outside" in fault_of(lambda x, mixed: 0.7 * x + 0.3 * x[mixed])


def other(*extra: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 16), *extra, nn.Linear(16, 1)).double()


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.3, training=self.training)


class OwnBatchNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + 1e-3)


def test_estimates_of_deterministic_networks_are_sound() -> None:
    assert fault_of(honest, other(nn.ReLU())) == ""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Dropout(0.3), "dropout"),
        (FunctionalDropout(), "same batch"),
        (nn.BatchNorm1d(16), "batch norm"),
        (nn.BatchNorm1d(16, track_running_stats=False), "batch norm"),
        (OwnBatchNorm(), "rest of the batch"),
    ],
)
def test_randomness_and_batch_statistics_void(layer: nn.Module, reason: str) -> None:
    assert reason in fault_of(honest, other(layer).train())


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), FunctionalDropout(), nn.BatchNorm1d(16)])
def test_the_same_layers_in_evaluation_mode_are_sound(layer: nn.Module) -> None:
    assert fault_of(honest, other(layer).eval()) == ""


def test_probe_leaves_the_random_state_alone() -> None:
    model, x = other(FunctionalDropout()).train(), examples("binary")[0]
    before = torch.get_rng_state()
    assert probed_fault(model, x) != ""
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mode_that_changes_after_the_first_window_is_noticed() -> None:
    model = other(FunctionalDropout()).eval()
    x, y = examples("binary", count=6)
    recorder = recorder_for(model, x, y, curvature=LocalLinearity())
    faults = []
    for training in (False, True):
        model.train(training)
        recorder.open()
        record_round(recorder, torch.arange(6), x)
        faults.append(recorder.close().void)
    assert faults[0] == ""
    assert faults[1] != ""


def test_round_of_another_size_than_it_says_voids() -> None:
    net = network("softplus")
    x, y = examples("binary")
    recorder = recorder_for(net, x, y)
    recorder.open()
    recorder.record(torch.arange(len(y)), x, net(x).detach(), round_size=2 * len(y))
    assert "weighted wrongly" in recorder.close().void


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_less_than_float32_is_computed_anew_in_float64(dtype: torch.dtype) -> None:
    x, y = examples("binary")
    net, x = network("softplus").to(dtype), x.to(dtype)
    recorder = recorder_for(net, x, y)
    recorder.open()
    recorder.record(torch.arange(len(y)), x, net(x).detach(), round_size=len(y))
    window = recorder.close()
    assert window.void == ""
    assert window.lower is not None
    initial = {name: start.double() for name, start in recorder.initial.items()}
    copies = Copies(net.double(), initial, x.double(), y, CrossEntropy())
    assert hunted_slack(copies, window.lower, 0) >= -1e-12


def test_estimates_in_less_than_float32_void() -> None:
    x, y = examples("binary")
    for dtype in (torch.bfloat16, torch.float16):
        net = other(nn.Tanh()).to(dtype)
        recorder = recorder_for(net, x.to(dtype), y, curvature=LocalLinearity())
        recorder.open()
        recorder.record(torch.arange(len(y)), x.to(dtype), net(x.to(dtype)).detach(), round_size=len(y))
        assert str(dtype) in recorder.close().void


def test_estimates_with_reduced_precision_products_void() -> None:
    x, y = examples("binary")
    net = other(nn.Tanh()).float()
    recorder = recorder_for(net, x.float(), y, curvature=LocalLinearity())
    recorder.open()
    try:
        torch.set_float32_matmul_precision("high")
        record_round(recorder, torch.arange(len(y)), x.float())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert "highest" in recorder.close().void


def test_not_finite_round_voids() -> None:
    net = network("softplus")
    x, y = examples("binary")
    recorder = recorder_for(net, x, y)
    recorder.open()
    outputs = net(x).detach()
    outputs[0, 0] = math.inf
    recorder.record(torch.arange(len(y)), x, outputs, round_size=len(y))
    assert "not finite" in recorder.close().void


def test_record_and_close_need_an_open_window() -> None:
    x, y = examples("binary")
    recorder = recorder_for(network("softplus"), x, y)
    with pytest.raises(RuntimeError, match="open"):
        record_round(recorder, torch.arange(len(y)), x)
    with pytest.raises(RuntimeError, match="open"):
        recorder.close()


def test_rounds_are_counted_from_one_and_skips_count() -> None:
    net = network("softplus")
    x, y = examples("binary", count=4)
    recorder = recorder_for(net, x, y)
    recorder.skip()
    recorder.skip()
    recorder.open()
    record_round(recorder, torch.tensor([0, 1]), x[:2])
    record_round(recorder, torch.tensor([2, 3]), x[2:])
    window = recorder.close(epoch=2)
    assert (window.first, window.last, window.epoch) == (3, 4, 2)


def test_drift_is_the_distance_at_the_last_round() -> None:
    net = network("softplus")
    x, y = examples("binary", count=4)
    recorder = recorder_for(net, x, y)
    recorder.open()
    for distance, rows in ((5.0, [0, 1]), (2.0, [2, 3])):
        move(net, recorder.initial, distance, draws(1))
        record_round(recorder, torch.tensor(rows), x[rows])
    window = recorder.close()
    assert window.drift == (pytest.approx(2.0),)
    assert window.rounding.distance == pytest.approx(5.0)


def test_window_bound_is_taken_at_the_recorders_radius_less_the_allowance() -> None:
    net = network("softplus")
    x, y = examples("binary")
    window, _ = one_round(net, x, y, x, CrossEntropy(), distance=1.0, radius=3.0)
    assert window.lower is not None
    bound = window.lower.bound(3.0)
    (minimum,) = bound.minima
    allowance = window.rounding.allowance(3.0, minimum.max_eigenvalue)
    assert 0 < allowance < 1e-10
    assert window.lower_bound == bound.value - allowance
    assert window.bound_at(1.0) > window.lower_bound


# Several processes.


class Shares:
    """Sums over two recorders that run in two threads, in the order in which both ask."""

    def __init__(self) -> None:
        self.barrier, self.held = threading.Barrier(2, timeout=20), [torch.zeros(()), torch.zeros(())]

    def sum_for(self, rank: int) -> Callable[[Tensor], Tensor]:
        def add(values: Tensor) -> Tensor:
            self.held[rank] = values
            self.barrier.wait()
            total = self.held[0] + self.held[1]
            self.barrier.wait()
            return total

        return add


def two_processes(spoil: int | None = None) -> tuple[list[Window], Window]:
    """5 examples in rounds of 2, 2 and 1: the second process has no share of the last. And the same in one process."""
    x, y = examples("binary", count=5)
    shares, windows = Shares(), [None, None]
    rounds = [([0], [1]), ([2], [3]), ([4], [])]

    def process(rank: int) -> None:
        net = network("relu", width=8)
        recorder = TraceRecorder(
            net,
            x,
            y,
            THREAT,
            CrossEntropy(),
            curvature=TwoLayerCurvature(),
            radius=2.0,
            processes=2,
            reduce=shares.sum_for(rank),
        )
        recorder.open()
        for parts in rounds:
            whole, mine = torch.tensor(parts[0] + parts[1]), torch.tensor(parts[rank], dtype=torch.long)
            points = x[mine] + (5.0 if spoil == rank else 0.0)
            recorder.record(mine, points, net(points).detach(), round_size=len(whole))
        windows[rank] = recorder.close()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    net = network("relu", width=8)
    recorder = recorder_for(net, x, y)
    recorder.open()
    for parts in rounds:
        rows = torch.tensor(parts[0] + parts[1])
        record_round(recorder, rows, x[rows])
    assert windows[0] is not None
    assert windows[1] is not None
    return [windows[0], windows[1]], recorder.close()


def test_two_processes_record_what_one_does() -> None:
    split, whole = two_processes()
    assert whole.lower is not None
    moves = random_moves([network("relu", width=8).weight.detach()], 20, draws(0))
    for window in split:
        assert window.void == ""
        assert window.lower is not None
        torch.testing.assert_close(
            lower_at(window.lower, moves), lower_at(whole.lower, moves), rtol=1e-10, atol=1e-11
        )
        assert window.online_loss == pytest.approx(whole.online_loss)


def test_a_fault_in_one_process_voids_in_all() -> None:
    split, _ = two_processes(spoil=1)
    assert all("outside" in window.void for window in split)


def test_random_weights_never_pass_below_in_float32() -> None:
    """Training's own precision: the bound holds against float64 losses once the allowance is off."""
    net = TwoLayer(3, 2, 64, "softplus", constant=0.5).float()
    x, y = examples("binary", count=20)
    x = x.float()
    recorder = recorder_for(net, x, y, radius=4.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    draw = draws(0)
    for _ in range(3):
        recorder.open()
        points = torch.empty_like(x)
        for rows in torch.randperm(20, generator=draw).split(3):
            points[rows] = THREAT.project_inside(x[rows] + normal(draw, len(rows), 3).float(), x[rows])
            record_round(recorder, rows, points[rows])
            optimizer.step()
        window = recorder.close()
        assert window.void == ""
        assert window.lower is not None
        initial = {name: start.double() for name, start in recorder.initial.items()}
        copies = Copies(net.double(), initial, points.double(), y, CrossEntropy())
        moves = random_moves(copies.start, 200, draw, low=0.1, high=4.0)
        assert worst_slack(copies, window.lower, moves) >= -window.rounding.allowance(4.0, 1.0)
        net.float()


# Training's own gradients do not enter: whatever was done to them, the round is the same.


def clipped_by_a_hook(net: TwoLayer) -> None:
    for p in net.parameters():
        p.grad = None if p.grad is None else p.grad * 1e-3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda net: torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3),
        lambda net: net.weight.grad.mul_(2.0),  # loss scaling
        lambda net: net.weight.grad.add_(torch.ones_like(net.weight)),  # accumulated
        lambda net: net.zero_grad(set_to_none=True),
        lambda net: net.weight.grad.fill_(math.nan),
        clipped_by_a_hook,
    ],
    ids=["clipped", "scaled", "accumulated", "cleared", "not finite", "replaced"],
)
@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_what_is_done_to_gradients_does_not_matter(
    activation: str, spoil: Callable[[TwoLayer], object]
) -> None:
    x, y = examples("binary", count=6)
    models = []
    for change in (lambda net: None, spoil):
        net = network(activation)
        recorder = recorder_for(net, x, y)
        recorder.open()
        outputs = net(x)
        CrossEntropy()(outputs, y).mean().backward()
        change(net)
        recorder.record(torch.arange(6), x, outputs.detach(), round_size=6)
        models.append(recorder.close().lower)
    assert models[0] is not None
    assert models[1] is not None
    moves = random_moves([network(activation).weight.detach()], 20, draws(0))
    assert torch.equal(lower_at(models[0], moves), lower_at(models[1], moves))


def test_a_clipping_that_begins_late_leaves_the_bound_below_the_loss() -> None:
    """Rounds 1 and 2 honest, then gradients cut to a thousandth, as an optimiser's hook might."""
    net = network("softplus", width=24)
    x, y = examples("binary", count=9)
    recorder, draw = recorder_for(net, x, y), draws(2)
    steps = torch.optim.SGD(net.parameters(), lr=2.0)
    for number in range(4):
        recorder.open()
        points = torch.empty_like(x)
        for rows in torch.randperm(9, generator=draw).split(3):
            points[rows] = attacked(x[rows], draw)
            net.zero_grad(set_to_none=True)
            outputs = net(points[rows])
            CrossEntropy()(outputs, y[rows]).mean().backward()
            if number >= 1:
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
            recorder.record(rows, points[rows], outputs.detach(), round_size=len(rows))
            steps.step()
        window = recorder.close()
        assert window.void == ""
        assert window.lower is not None
        assert (
            hunted_slack(Copies(net, recorder.initial, points, y, CrossEntropy()), window.lower, 1) >= -1e-12
        )


def test_rounds_of_another_objective_are_rounds_of_the_robust_loss() -> None:
    """Soft labels in training: the record is of the examples' own labels, at the same points."""
    net = network("softplus")
    x, y = examples("binary", count=6)
    recorder = recorder_for(net, x, y)
    recorder.open()
    outputs = net(x)
    nn.functional.mse_loss(outputs, torch.full_like(outputs, 0.3)).backward()
    recorder.record(torch.arange(6), x, outputs.detach(), round_size=6)
    lower = recorder.close().lower
    assert lower is not None
    assert hunted_slack(Copies(net, recorder.initial, x, y, CrossEntropy()), lower, 0) >= -1e-12


@pytest.mark.parametrize("outputs", [0.0, 3.0, -50.0], ids=str)
def test_any_outputs_to_expand_at_give_a_bound(outputs: float) -> None:
    net = network("tanh", "signed")
    x, y = examples("signed", count=6)
    recorder = recorder_for(net, x, y)
    recorder.open()
    recorder.record(torch.arange(6), x, torch.full((6, 3), outputs, dtype=DOUBLE), round_size=6)
    lower = recorder.close().lower
    assert lower is not None
    assert hunted_slack(Copies(net, recorder.initial, x, y, CrossEntropy()), lower, 0) >= -1e-12


# Labels and weights as they come.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_labels_of_narrow_types_count_as_what_they_are(dtype: torch.dtype) -> None:
    x, y = examples("binary", count=6)
    bounds = []
    for labels in (y, y.to(dtype)):
        net = network("softplus")
        recorder = recorder_for(net, x, labels)
        recorder.open()
        recorder.record(torch.arange(6), x, net(x).detach(), round_size=6)
        bounds.append(recorder.close().lower_bound)
    assert bounds[0] == bounds[1]


def test_weights_that_do_not_add_up_to_1_are_refused() -> None:
    x, y = examples("binary", count=3)
    for weights in (torch.full((3,), 2.0), torch.tensor([0.5, 0.5, math.nan]), torch.full((2,), 0.5)):
        with pytest.raises(InputError, match="add up to 1"):
            recorder_for(network("softplus"), x, y, weights=weights)
