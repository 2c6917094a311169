"""Matrix products by the faster of torch's two CPU libraries.

torch multiplies float32 matrices by MKL, which keeps to half-width instructions on AMD processors that have
AVX-512; oneDNN, in the same torch, does not. Which one is faster is decided by a rule of processor and shape
and never by a clock: a choice that varied between two runs would change the last bits of their results, and
seeds would not repeat them.
"""

import sys
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SMALLEST = 64  # rows' length and outputs from which oneDNN is worth its overhead
LEAST_WORK = 2**20  # multiplications below which the time is overhead anyway
TOLERANCE = 4.0  # times the error of torch's own product


def product(
    x: Float[Tensor, "rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "rows outputs"]:
    """``x weight^T + bias`` without history, by oneDNN where that is faster and found as accurate, else by
    torch's default.
    """
    if x.dtype == torch.float32 and x.device.type == "cpu" and _onednn_is_faster():
        (rows, inputs), outputs = x.shape, len(weight)
        large = min(inputs, outputs) >= SMALLEST and rows * inputs * outputs >= LEAST_WORK
        # One check for all batches of about this size: attacks that drop points would meet a new one every
        # few steps.
        batch = 1 << (rows - 1).bit_length()
        # A lowered precision, or oneDNN off, is the user's wish for torch's products: the operator called
        # here may ignore it.
        precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        plain = torch._C._get_mkldnn_enabled() and precision in ("none", "ieee")
        if large and plain and inputs == weight.shape[1] and _is_accurate(batch, inputs, outputs):
            return _onednn(_dense(x), _dense(weight), bias)
    return functional.linear(x, weight, bias)


def _dense(matrix: Tensor) -> Tensor:
    """The matrix without gaps between its rows or columns: oneDNN takes a hundred times as long for
    slices.
    """
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


@cache
def _onednn_is_faster() -> bool:
    return (
        torch._C.has_mkl
        and torch._C._has_mkldnn
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _vendor() == "AuthenticAMD"
    )


def _vendor() -> str:
    """The processor's maker as it names itself; empty where the system does not tell."""
    if sys.platform == "win32":
        import platform

        return "AuthenticAMD" if "AuthenticAMD" in platform.processor() else ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(named, "")


@cache
def _is_accurate(rows: int, inputs: int, outputs: int) -> bool:
    """Whether oneDNN's product of this shape is there and errs at most a few times as much as torch's own.

    All of it is multiplied once; three rows are compared in float64. The weights repeat, so that the
    comparison takes little.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=draw)
    base = torch.randn(min(outputs, SMALLEST), inputs, generator=draw)
    repeats = -(-outputs // len(base))
    weight = base.repeat(repeats, 1)[:outputs]
    try:
        fast = _onednn(x, weight, None)
    except (AttributeError, RuntimeError):  # torch was built without it
        return False
    some = sorted({0, rows // 2, rows - 1})
    exact = (x[some].double() @ base.double().T).repeat(1, repeats)[:, :outputs]
    errors = [float((made - exact).square().mean().sqrt()) for made in (fast[some], x[some] @ weight.T)]
    return errors[0] <= TOLERANCE * errors[1]
