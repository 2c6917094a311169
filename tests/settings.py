"""Settings of `hf.train` given flat, as tests vary them, folded into the values it takes."""

from dataclasses import fields, replace

from holdfast import CertificateSettings, DeviceSettings, ValidationSettings, optimizers

GROUPS = {
    "validation": (ValidationSettings, {"attack": "evaluation_attack", "every": "evaluate_every"}),
    "certificate": (CertificateSettings, {"radius": "certificate_radius"}),
    "device": (DeviceSettings, {}),
}
OPTIMIZER = ("momentum", "weight_decay")


def grouped(settings):
    """The same settings with ``tighten``, ``precision``, ``momentum`` and the like in their groups."""
    left = dict(settings)
    for group, (kind, flat) in GROUPS.items():
        names = {flat.get(entry.name, entry.name): entry.name for entry in fields(kind)}
        found = {names[name]: left.pop(name) for name in names.keys() & left.keys()}
        if found:
            left[group] = replace(left[group], **found) if group in left else kind(**found)
    found = {name: left.pop(name) for name in OPTIMIZER if name in left}
    if found:
        named = optimizers.OPTIMIZERS[left.get("optimizer", "sgd" if "momentum" in found else "auto")]
        left["optimizer"] = named(**found)
    return left
