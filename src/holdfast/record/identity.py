"""What a run is: all that its figures are about, written when it begins and compared when it is resumed.

Everything counts but what `docs/explanations/runs.md` lists as free to change: the number of epochs (upwards,
and with a constant learning rate), what follows training (``final_attack``, the certificate's radius
and tightening), how often rounds are recorded, where it runs, and its name.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast._identity import content_digest
from holdfast._record import RECORD, checked
from holdfast.attacks import Attack
from holdfast.data import Dataset
from holdfast.errors import InputError, RunFolderError
from holdfast.losses import Loss
from holdfast.threats import Threat
from holdfast.training.schedules import ScheduleSettings
from holdfast.training.settings import ValidationSettings

FILE = "identity.json"


@dataclass(frozen=True, kw_only=True)
class IdentityPart:
    """One thing a run is made of: in words, and by its content."""

    says: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A run's parts by name, and how long it was to be."""

    parts: dict[str, IdentityPart]
    epochs: int

    @property
    def constant(self) -> bool:
        """Whether the schedule is the same however many epochs there will be."""
        return self.parts["schedule"].says == repr(ScheduleSettings())


def identity_of(
    *,
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    loss: Loss,
    attack: Attack,
    validation: ValidationSettings,
    example_weights: Tensor | None,
    epochs: int,
    **settings: Any,
) -> Identity:
    """The identity of a run that is about to begin with these; ``settings`` are compared as they are."""
    split = data.split
    content = (
        data.x,
        data.y,
        data.bounds,
        data.fixed,
        split.train,
        split.validation,
        split.test,
        data.classes,
    )
    sizes = f"{len(split.train)} training examples of {data.features} features in {data.classes} classes"
    parts = {
        "data": IdentityPart(says=f"{data.name} ({sizes})", digest=content_digest(content)),
        "threat": IdentityPart(says=threat.spec, digest=content_digest(threat)),
        "loss": IdentityPart(says=loss.name, digest=content_digest(loss)),
        "network": IdentityPart(says=_network(model), digest=content_digest(model, weights=False)),
        "attack": IdentityPart(says=_words(attack), digest=content_digest(attack)),
        "example_weights": IdentityPart(
            says="none" if example_weights is None else f"{len(example_weights)} numbers",
            digest=content_digest(example_weights),
        ),
    }
    settings |= {f"validation {name.replace('_', ' ')}": value for name, value in vars(validation).items()}
    parts |= {
        name: IdentityPart(says=_words(value), digest=content_digest(value))
        for name, value in settings.items()
    }
    return Identity(parts=parts, epochs=epochs)


def _network(model: nn.Module) -> str:
    width = getattr(model, "width", None)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{type(model).__name__}{'' if width is None else f' of width {width}'} ({count:,} parameters)"


def _words(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 240 and " at 0x" not in text else type(value).__name__


def to_json(identity: Identity) -> dict[str, Any]:
    """As ``identity.json`` has it."""
    return asdict(identity)


def read_identity(folder: Path) -> Identity:
    """What the run in ``folder`` began with.

    Raises:
        RunFolderError: nothing begun there, or damaged.
    """
    path = folder / FILE
    if not (folder / RECORD).is_file():
        before = (folder / "checkpoints" / "last.pt").is_file()
        why = (
            f"but {folder / RECORD}, by which it is checked, is missing (the folder is damaged, or version 0.1 "
            "wrote it); restore it, or"
            if before
            else f"but {folder / 'checkpoints' / 'last.pt'} is missing;"
        )
        raise RunFolderError(f"a run is resumed from its checkpoint, {why} start it without resume.")
    try:
        values = json.loads(checked(path).read_text(encoding="utf-8"))
        parts = {name: IdentityPart(**part) for name, part in values["parts"].items()}
        return Identity(parts=parts, epochs=int(values["epochs"]))
    except RunFolderError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} must say what the run began with, but cannot be read ({type(error).__name__}); "
            "start without resume."
        ) from error


def check_same(began: Identity, now: Identity) -> Identity:
    """The identity that a resumed run goes on with.

    Raises:
        InputError: it is another run; the message says what differs.
    """
    different = []
    for name in {**began.parts, **now.parts}:
        was, came = began.parts.get(name), now.parts.get(name)
        if was is None or came is None:
            different.append(
                f"{name} was {'not set' if was is None else was.says}, got "
                f"{'none' if came is None else came.says}"
            )
        elif was.digest != came.digest:
            other = "another of other content" if was.says == came.says else came.says
            different.append(f"{name} was {was.says}, got {other}")
    if now.epochs < began.epochs:
        different.append(f"epochs was {began.epochs}, got {now.epochs} (it may only grow)")
    elif now.epochs > began.epochs and not began.constant:
        different.append(
            f"epochs was {began.epochs}, got {now.epochs} (the schedule of the learning rate depends on it)"
        )
    if different:
        raise InputError(
            f"--resume continues the run as it began: {'; '.join(different)}; pass the same, or begin a "
            "new run in another folder."
        )
    return replace(began, epochs=now.epochs)
