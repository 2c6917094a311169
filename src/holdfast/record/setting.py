"""What a certificate needs beside a trace, as plain values: the network, the threat, the loss, the weights of
the examples.

Built-in ones are written down with their arguments, so that a run can be certified again without its data,
its configuration or any code of its own. A user's own are left out here: `holdfast.config.build` makes them
from ``config.yaml``.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast._record import checked
from holdfast.errors import RunFolderError
from holdfast.families.registry import rebuilt, stored
from holdfast.losses import LOSSES, Loss
from holdfast.record.run import RunWriter
from holdfast.threats import LpBall, SphereSlice, Threat

FILE = "setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was written down; ``None`` means a user's own. The network has the right shape, not yet
    the weights.
    """

    model: nn.Module | None
    threat: Threat | None
    loss: Loss | None
    example_weights: Tensor | None


def save_setting(
    writer: RunWriter, model: nn.Module, threat: Threat, loss: Loss, example_weights: Tensor | None
) -> None:
    """Write ``setting.json`` and ``setting.safetensors`` into the run's ``trace`` folder."""
    tensors = {} if example_weights is None else {"example_weights": example_weights}
    values = {"network": stored(model), "threat": _threat(threat, tensors), "loss": _loss(loss)}
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
            model=None if network is None else rebuilt(**network),
            threat=None if threat is None else _made_threat(tensors, **threat),
            loss=None if loss is None else LOSSES[loss.pop("name")](**loss),
            example_weights=tensors.get("example_weights"),
        )
    except RunFolderError:
        raise
    except Exception as error:  # json, safetensors and key errors all mean the same to the user
        raise RunFolderError(
            f"what {folder} says of its run cannot be read ({type(error).__name__}: {error}); train "
            "again or resume the run."
        ) from error


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
