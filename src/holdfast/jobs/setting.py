"""What a certificate needs beside a trace, as plain values: the network, the threat, the loss, the weights of the examples.

Built-in ones are written down with their arguments, so that a run can be certified again without its data, its
configuration or any code of its own. A user's own are left out here: `holdfast.jobs.build` makes them from ``config.yaml``.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast._record import checked
from holdfast.errors import RunFolderError
from holdfast.losses import LOSSES, Loss
from holdfast.networks import Dense, MNISTConv, TwoLayer
from holdfast.networks.exact import why_not_exact
from holdfast.runs import RunWriter
from holdfast.threats import LpBall, SphereSlice, Threat

FILE = "setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was written down; ``None`` stands for a user's own. The network has the right shape, not yet the weights."""

    model: nn.Module | None
    threat: Threat | None
    loss: Loss | None
    example_weights: Tensor | None


def save_setting(
    writer: RunWriter, model: nn.Module, threat: Threat, loss: Loss, example_weights: Tensor | None
) -> None:
    """Write ``setting.json`` and ``setting.safetensors`` into the run's ``trace`` folder."""
    tensors = {} if example_weights is None else {"example_weights": example_weights}
    values = {"network": _network(model), "threat": _threat(threat, tensors), "loss": _loss(loss)}
    with writer.together():
        writer.tensors(f"trace/{FILE}.safetensors", tensors)
        writer.json(f"trace/{FILE}.json", values)


def load_setting(folder: Path) -> Setting:
    """What `save_setting` wrote; no code is executed.

    Raises:
        RunFolderError: a file is missing or cut short.
    """
    try:
        values = json.loads(checked(folder / f"{FILE}.json").read_text(encoding="utf-8"))
        tensors = load_file(checked(folder / f"{FILE}.safetensors"))
        network, threat, loss = values["network"], values["threat"], values["loss"]
        return Setting(
            model=None if network is None else _made_network(**network),
            threat=None if threat is None else _made_threat(tensors, **threat),
            loss=None if loss is None else LOSSES[loss.pop("name")](**loss),
            example_weights=tensors.get("example_weights"),
        )
    except RunFolderError:
        raise
    except Exception as error:  # json, safetensors and key errors all mean the same to the user
        raise RunFolderError(
            f"what {folder} says of its run cannot be read ({type(error).__name__}: {error}); train again or resume the run."
        ) from error


def _network(model: nn.Module) -> dict[str, Any] | None:
    if type(model) is MNISTConv:
        return {
            "name": "mnist-conv",
            "classes": model.classes,
            "channels": model.channels,
            "size": model.size,
        }
    if (
        not isinstance(model, TwoLayer | Dense)
        or why_not_exact(model)
        or type(model) not in (TwoLayer, Dense)
    ):
        return None
    shape = {"features": model.features, "classes": model.classes, "width": model.width}
    common = {**shape, "activation": model.activation.name}
    if isinstance(model, Dense):
        start = {
            "zero_start": model.zero_start,
            "input_layer": model.input_weight is not None,
            "output": model.output,
        }
        return {"name": "dense", **common, "depth": model.depth, **start}
    return {
        "name": "two-layer", **common, "outputs": "signed" if model.groups > 1 else "dense",
        "train_output": model.train_output, "constant": model.constant, "centred": model.center is not None,
    }  # fmt: skip


def _made_network(name: str, centred: bool = False, **arguments: Any) -> nn.Module:
    if name == "two-layer":
        # The start of the units is not wanted here, and unpaired ones may have any width.
        center = torch.zeros(arguments["features"]) if centred else None
        return TwoLayer(**arguments, paired=False, center=center)
    kinds: dict[str, Callable[..., nn.Module]] = {"dense": Dense, "mnist-conv": MNISTConv}
    return kinds[name](**arguments)


def _threat(threat: Threat, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """The threat's numbers; its masks and bounds (which may be infinite) go to ``tensors``."""
    if not (type(threat) is LpBall or type(threat) is SphereSlice):
        return None
    if threat.fixed is not None:
        tensors["fixed"] = threat.fixed
    if not isinstance(threat, LpBall):
        return {"name": "sphere", "radius": threat.radius}
    for side, limit in zip(("low", "high"), threat.bounds or (), strict=False):
        tensors[side] = torch.as_tensor(limit, dtype=None if isinstance(limit, Tensor) else torch.float64)
    return {"name": "ball", "norm": threat.norm, "radius": threat.radius}


def _made_threat(tensors: dict[str, Tensor], name: str, radius: float, norm: str = "") -> Threat:
    fixed = tensors.get("fixed")
    if name == "sphere":
        return SphereSlice(radius, fixed=fixed)
    limits = [
        limit if limit.ndim else float(limit)
        for side in ("low", "high")
        if (limit := tensors.get(side)) is not None
    ]
    return LpBall(norm, radius, bounds=(limits[0], limits[1]) if limits else None, fixed=fixed)


def _loss(loss: Loss) -> dict[str, Any] | None:
    return {"name": loss.name, **asdict(loss)} if LOSSES.get(loss.name) is type(loss) else None
