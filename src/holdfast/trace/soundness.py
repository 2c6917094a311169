"""When training steps are rounds of ``f`` at all: one fixed network, one example at a time."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import applied

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORM = (nn.modules.batchnorm._BatchNorm,)


def named_fault(model: nn.Module) -> str:
    """A layer known to make outputs random or to mix the examples of a batch, in the mode the model is in;
    or nothing.
    """
    for name, module in model.named_modules():
        where = f"layer '{name}'" if name else "the model"
        if isinstance(module, _DROPOUT) and module.training and module.p > 0:
            return f"{where} is dropout in training mode, so the rounds are not of one network"
        if isinstance(module, _BATCH_NORM) and (module.training or not module.track_running_stats):
            return f"{where} is batch norm in training mode, so an output depends on the rest of its batch"
    return ""


def arithmetic_fault(dtypes: set[torch.dtype]) -> str:
    """Arithmetic that the rounding allowance does not cover, seen in the dtypes of weights and outputs; or
    nothing.
    """
    coarse = dtypes - {torch.float32, torch.float64}
    if coarse:
        return (
            f"the round was computed in {', '.join(sorted(map(str, coarse)))}; rounds need float32 or float64"
        )
    if torch.float32 in dtypes and torch.get_float32_matmul_precision() != "highest":
        return (
            "matrix products were allowed less than float32 (torch.set_float32_matmul_precision); "
            "rounds need 'highest'"
        )
    return ""


@torch.no_grad()
def probed_fault(model: nn.Module, x: Float[Tensor, "batch ..."]) -> str:
    """The same by trial on a few examples: twice the same batch, then half of it. Leaves random states as
    they were.

    Tolerances are loose (1e-3 of the outputs' size): rounding differs between batch sizes, randomness is far
    larger.
    """
    fault = named_fault(model)
    if fault or len(x) < 2:
        return fault
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        first, second, part = applied(model, x), applied(model, x), applied(model, x[: len(x) // 2])
    size = 1e-3 * (1.0 + first.abs().max())
    if bool((first - second).abs().max() > size):
        return (
            "the model gives different outputs for the same batch (randomness inside), so the rounds "
            "are not of one network"
        )
    if bool((first[: len(part)] - part).abs().max() > size):
        return (
            "the model's outputs depend on the rest of the batch, so the rounds are not of one "
            "network an example"
        )
    return ""
