"""The families, a line each, and what others ask of them."""

from typing import Any

from torch import nn

from holdfast._arguments import MODEL
from holdfast._registry import NETWORKS
from holdfast._rules import TEXT, kind, takes
from holdfast.curvature.base import Curvature
from holdfast.curvature.linearity import LocalLinearity
from holdfast.errors import InputError
from holdfast.families.base import Family, NetworkFacts, Settings
from holdfast.families.curvature import FamilyCurvature
from holdfast.families.dense import DenseFamily
from holdfast.families.exact import exact_core, forget, note, origin, why_not_exact
from holdfast.families.linearised import LinearisedNetworks
from holdfast.families.mnist_conv import MNISTConvNetworks
from holdfast.families.named import named
from holdfast.families.two_layer import TwoLayerFamily

_KNOWN: dict[str, NetworkFacts[Any]] = {}
_SPECIAL: tuple[NetworkFacts[Any], ...] = (
    TwoLayerFamily(),
    DenseFamily(),
    LinearisedNetworks(),
    MNISTConvNetworks(),
)
_LIBRARY = (*_SPECIAL, *(named(name) for name in NETWORKS if name not in {one.name for one in _SPECIAL}))


@takes(family=kind(NetworkFacts, what="a holdfast.families.Family", hint="make an instance of yours"))
def register(family: NetworkFacts[Any]) -> None:
    """Add a family. Its networks are certified by its bound from now on, and the certificate says by whose.

    Args:
        family: an instance of the family.

    Raises:
        InputError: the name is taken, the class belongs to another family, or the family's own example is not
            exact.

    >>> import torch
    >>> import holdfast as hf
    >>> class Facts(hf.families.NetworkFacts):
    ...     name, network = "identity", torch.nn.Identity
    >>> hf.families.register(Facts())
    >>> hf.families.registered()[-1].name
    'identity'
    >>> hf.families.unregister("identity")
    """
    if family.name in _KNOWN:
        raise InputError(
            f"a family needs a name of its own, but {family.name!r} is registered; unregister it or take "
            "another."
        )
    if isinstance(family, Family):
        if not isinstance(family.curvature(), FamilyCurvature):
            raise InputError(
                f"the curvature of the family {family.name!r} must be a FamilyCurvature, got "
                f"{type(family.curvature()).__name__}; inherit from it."
            )
        note(family)
    _KNOWN[family.name] = family


@takes(name=TEXT)
def unregister(name: str) -> None:
    """Take back a `register`.

    Args:
        name: of the family.

    Raises:
        InputError: no such family, or one of the library.

    >>> import torch
    >>> import holdfast as hf
    >>> class Facts(hf.families.NetworkFacts):
    ...     name, network = "identity", torch.nn.Identity
    >>> hf.families.register(Facts())
    >>> hf.families.unregister("identity")
    >>> "identity" in {facts.name for facts in hf.families.registered()}
    False
    """
    family = _KNOWN.get(name)
    if family is None or family in _LIBRARY:
        raise InputError(
            f"name must be that of a family you registered, got {name!r}; leave the library's alone."
        )
    if isinstance(family, Family):
        forget(family)
    del _KNOWN[name]


for _family in _LIBRARY:
    register(_family)


def registered() -> tuple[NetworkFacts[Any], ...]:
    """All families, the library's first.

    >>> import holdfast as hf
    >>> "two-layer" in {facts.name for facts in hf.families.registered()}
    True
    """
    return tuple(_KNOWN.values())


@takes(model=MODEL)
def family_of(model: nn.Module) -> Family[Any] | None:
    """The family whose network ``model`` is exactly.

    ``None`` where no proof is known; `why_not` has the reason.

    Args:
        model: the network.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.families.family_of(torch.nn.Linear(2, 1)) is None
    True
    """
    core = exact_core(model)
    return None if core is None else core.family


@takes(model=MODEL)
def why_not(model: nn.Module) -> str:
    """Why ``model`` is not exactly a network of a family; empty where it is one.

    Args:
        model: the network.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.families.why_not(hf.networks.TwoLayer(2, 2, width=8)), bool(hf.families.why_not(torch.nn.Identity()))
    ('', True)
    """
    return why_not_exact(model)


def unproved(curvature: Curvature, model: nn.Module) -> str:
    """Why this curvature is no proof for this model; empty where it is one. Only the one that the model's own
    family gives can be: what a curvature says of itself, and what overrides a family's, is not asked."""
    if isinstance(curvature, FamilyCurvature):
        return FamilyCurvature.unproved(curvature, model)
    return Curvature.unproved(curvature, model)


def known_as(model: nn.Module) -> NetworkFacts[Any] | None:
    """What is known of networks of this class, whether or not this one is exactly as written."""
    return next((known for known in registered() if isinstance(model, known.network)), None)


def near_linear(model: nn.Module) -> bool:
    """Whether such networks stay near their linearisation."""
    known = known_as(model)
    return known is not None and known.near_linear


def step_lasts(model: nn.Module) -> bool:
    """Whether the step of the theory serves such networks to the end of training."""
    core = exact_core(model)
    known = known_as(model if core is None else core.network)
    return known is not None and known.step_lasts


def tangent_model(model: nn.Module) -> nn.Module:
    """The network whose tangent kernel is that of ``model``."""
    known = known_as(model)
    return model if known is None else known.tangent_model(model)


def stored(model: nn.Module) -> dict[str, Any] | None:
    """The family's name and the settings from which `rebuilt` makes the network again; ``None`` where that
    cannot be.
    """
    known = known_as(model)
    if (
        known is None
        or type(model) is not known.network
        or (isinstance(known, Family) and why_not_exact(model))
    ):
        return None
    settings: Settings | None = known.settings(model)
    return None if settings is None else {"name": known.name, **settings}


def rebuilt(name: str, **settings: Any) -> nn.Module | None:
    """The network of `stored`, its weights yet to be loaded; ``None`` where no family of this name is
    registered.
    """
    known = _KNOWN.get(name)
    return None if known is None else known.made(**settings)


@takes(model=MODEL)
def curvature_for(model: nn.Module) -> tuple[Curvature, str]:
    """The rigorous bound of the model's family, or the local-linearity estimate; and the reason.

    Args:
        model: the network.

    >>> import torch
    >>> import holdfast as hf
    >>> bound, reason = hf.families.curvature_for(torch.nn.Linear(2, 1))
    >>> bound
    LocalLinearity()
    """
    core = exact_core(model)
    if core is None:
        return LocalLinearity(), (
            f"no rigorous curvature bound: {why_not_exact(model)}; the network was treated as linear in "
            "its weights"
        )
    curvature = core.family.curvature()
    why = unproved(curvature, model)
    if why:
        return LocalLinearity(), f"no rigorous curvature bound: {why}"
    assert isinstance(curvature, FamilyCurvature)  # seen to by `register`
    reason = (
        f"proved: the curvature of this {curvature.word} network has a rigorous bound, and rounding "
        "is allowed for"
    )
    if origin(core.family):
        reason += (
            f" (as the family {core.family.name!r} says, {origin(core.family)}, which is not the library's)"
        )
    return curvature, reason
