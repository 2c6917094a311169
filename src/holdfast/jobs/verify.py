"""A property of a network from a file: checked, with progress, and its counterexample as text."""

from torch import Tensor

from holdfast import _defaults
from holdfast._progress import Progress
from holdfast._signals import stopping
from holdfast.evaluation.properties import Answer, check_property
from holdfast.external import ImportedNetwork, Property


@stopping()
def verify_property(
    imported: ImportedNetwork,
    prop: Property,
    *,
    seconds: float | None = _defaults.PROPERTY_SECONDS,
    seed: int = _defaults.SEED,
    progress: bool = True,
) -> Answer:
    """As `check_property`, with bars."""
    with Progress(enabled=progress).named() as report:
        return check_property(
            imported.network, prop, tuple(imported.input_shape), seconds=seconds, seed=seed, progress=report
        )


def counterexample_text(x: Tensor, outputs: Tensor) -> str:
    """``((X_0 0.1)`` ... ``(Y_0 2.5))``, every number with all its digits, as VNN-COMP wants it."""
    rows = [f"(X_{k} {value!r})" for k, value in enumerate(x.flatten().double().tolist())]
    rows += [f"(Y_{k} {value!r})" for k, value in enumerate(outputs.flatten().double().tolist())]
    return "(" + "\n ".join(rows) + ")\n"
