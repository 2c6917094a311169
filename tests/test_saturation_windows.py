"""The rounding allowance of a window where one of its terms carries it alone, against numbers of 60 digits."""

import torch
from mpmath import mpf

from holdfast.families import curvature_for
from holdfast.losses import CrossEntropy
from holdfast.networks import TwoLayer
from holdfast.threats import LpBall
from holdfast.trace import TraceRecorder
from test_certificate_trust import exact_value


def test_outputs_of_large_weights_are_allowed_for_at_radius_zero():
    """No step and no move, outputs of 1e8 whose units cancel, and slopes taken at small ones: only the outputs' own rounding is left."""
    worst = 0.0
    for seed in range(6):
        net = TwoLayer(3, 2, 8, "softplus", constant=0.5, paired=False, seed=seed).double()
        with torch.no_grad():
            net.weight.mul_(1e8)
        start = net.weight.detach().clone()
        draw = torch.Generator().manual_seed(seed)
        x, y = torch.randn(4, 3, generator=draw, dtype=torch.float64), torch.arange(4) % 2
        recorder = TraceRecorder(
            net, x, y, LpBall("2", 10.0), CrossEntropy(), curvature=curvature_for(net)[0], radius=2.0
        )
        h = torch.randn(4, 1, generator=draw, dtype=torch.float64)
        recorder.open()
        recorder.record(torch.arange(4), x, h, round_size=4)
        window = recorder.close()
        assert window.lower is not None
        step = torch.zeros_like(start)
        error = abs(
            mpf(window.lower.value(((step,),))) - exact_value(net, start, x, y, h, step, window.lower)
        )
        allowance = window.rounding.allowance(0.0, 0.0)
        assert error <= allowance
        worst = max(worst, float(error / (window.rounding.unit * 1e3)))
    assert worst > 1  # far more than the losses' own rounding
