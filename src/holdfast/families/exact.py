"""Is this exactly a network that a proof was written for, and why not: the one place that decides it, for all
families.

Proofs, kernels and closed forms hold for the families' classes run exactly as they are written. What else a
module may do (override a method, bear a hook, replace a tensor by a parametrisation) is not looked into: any
of it means "not exact". What a proof reads of an exact network (rows, signs, scales) it derives from the
tensors at that time. A family adds its class and the sizes of its tensors, and can leave out none of the
questions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from hashlib import sha256
from itertools import pairwise
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from holdfast._overrides import override
from holdfast._tensors import raw_bytes
from holdfast.errors import InputError
from holdfast.families.base import Family, Sizes
from holdfast.networks.activations import ACTIVATIONS, Activation, activation_named

_PLUMBING = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__", "__setattr__")
_HOOKS = (
    ("_forward_hooks", "forward hook"),
    ("_forward_pre_hooks", "forward pre-hook"),
    ("_backward_hooks", "backward hook"),
    ("_backward_pre_hooks", "backward pre-hook"),
)


# Of a class, what its instances read.
_TOLD = (FunctionType, property, staticmethod, classmethod, bool, int, float, str)


def _written(kind: type[nn.Module]) -> dict[str, Any]:
    """What the class, those of its own it inherits from and torch's machinery say now: methods and numbers;
    compared with what they did when it was noted."""
    own: dict[str, Any] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)]):
        own |= {
            name: value
            for name, value in vars(base).items()
            if isinstance(value, _TOLD) and name != "__doc__"
        }
    return own | {name: getattr(kind, name) for name in ("forward", *_PLUMBING)}


@dataclass(frozen=True, kw_only=True)
class _Noted:
    """A class as it was when its family was registered.

    Attributes:
        written: its methods.
        shadowable: names that an instance must not bear itself, since they would hide its methods.
        held: what an instance holds and its methods read: a class attribute of that name would hide it.
    """

    family: Family[Any] | None
    written: dict[str, Any]
    shadowable: set[str]
    held: set[str]


def _noted(kind: type[nn.Module], family: Family[Any] | None, held: set[str]) -> _Noted:
    shadowable = {
        name
        for name in dir(kind)
        if callable(getattr(kind, name)) or isinstance(vars(kind).get(name), property)
    }
    return _Noted(family=family, written=_written(kind), shadowable=shadowable, held=held)


_NOTED: dict[type[nn.Module], _Noted] = {nn.Sequential: _noted(nn.Sequential, None, set())}


def note(family: Family[Any]) -> None:
    """Take the family's class, as it is written now, for one with a proof.

    Raises:
        InputError: another family has the class, or one that it inherits from or that inherits from it; or
            its example is not exact.
    """
    kind = family.network
    if not issubclass(kind, nn.Module) or kind.__module__.startswith("torch."):
        raise InputError(f"network must be a module class of your own, got {kind.__name__}; inherit from it.")
    for other, noted in _NOTED.items():
        if noted.family is not None and (issubclass(kind, other) or issubclass(other, kind)):
            raise InputError(
                f"a network belongs to one family, but {kind.__name__} is or inherits {other.__name__} of "
                f"the family {noted.family.name!r} (or the reverse); write a class of its own."
            )
    net = family.example()
    _NOTED[kind] = _noted(kind, family, {*vars(net), *net._parameters, *net._buffers, *net._modules})
    why = why_not_exact(net)
    if why:
        del _NOTED[kind]
        raise InputError(
            f"the example of the family {family.name!r} must be exact, but {why}; correct its sizes."
        )


def forget(family: Family[Any]) -> None:
    """Its networks have no proof any more."""
    del _NOTED[family.network]


def origin(family: Family[Any]) -> str:
    """Whose proof it is: where a family's class is defined; empty for the library's own."""
    kind = type(family)
    return "" if kind.__module__.startswith("holdfast.") else f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True, kw_only=True)
class Core:
    """The network with a proof inside a model.

    Attributes:
        family: the family it belongs to.
        network: the network itself.
        prefix: what its parameters' names begin with in the model, e.g. ``0.`` inside `nn.Sequential`.
    """

    family: Family[Any]
    network: nn.Module
    prefix: str

    def named(self, *names: str) -> tuple[str, ...]:
        """The model's names of these parameters of the network."""
        return tuple(self.prefix + name for name in names)

    def own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by the model's names, by the network's own."""
        return {
            name.removeprefix(self.prefix): w for name, w in weights.items() if name.startswith(self.prefix)
        }


def exact_core(model: nn.Module) -> Core | None:
    """The network of a family that ``model`` computes exactly, or ``None``; `why_not_exact` has the reason.

    >>> from holdfast.networks import TwoLayer
    >>> exact_core(nn.Sequential(TwoLayer(3, 2, 4))).prefix
    '0.'
    """
    found = _core(model)
    return found if isinstance(found, Core) else None


def why_not_exact(model: nn.Module) -> str:
    """Why ``model`` is not exactly a network of a family (`TwoLayer` and `Dense` are); empty where it is one.

    A class that inherits one of them and overrides nothing, and `nn.Sequential` of one (beside `nn.Identity`
    and `nn.Flatten`), are exact too.

    >>> why_not_exact(nn.Linear(2, 2))
    'Linear is not a network of the library with a proof'
    """
    found = _core(model)
    return "" if isinstance(found, Core) else found


def _core(model: nn.Module) -> Core | str:
    if torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "a hook on all modules is registered, so that no module is exactly as written"
    if type(model) is nn.Sequential:
        return altered(model, nn.Sequential) or _wrapped(model)
    for kind, noted in _NOTED.items():
        if noted.family is not None and isinstance(model, kind):
            why = altered(model, kind) or _inconsistent(model, noted) or _shared_storage(model)
            return why or Core(family=noted.family, network=model, prefix="")
    return f"{type(model).__name__} is not a network of the library with a proof"


def _wrapped(model: nn.Sequential) -> Core | str:
    """The one network in a chain whose other members do nothing (both networks flatten their inputs
    themselves).
    """
    inner = [
        (name, part) for name, part in model._modules.items() if part is not None and not _does_nothing(part)
    ]
    if len(inner) != 1:
        held = any(exact_core(part) is not None for _, part in inner)
        return f"Sequential {'has further layers beside' if held else 'is not'} a network of the library"
    found = _core(inner[0][1])
    if not isinstance(found, Core):
        return found
    if list(model._modules.values())[-1] is not inner[0][1] and any(type(p) is nn.Flatten for p in model):
        return "Sequential has further layers beside a network of the library"
    return Core(family=found.family, network=found.network, prefix=f"{inner[0][0]}.{found.prefix}")


def _does_nothing(part: nn.Module) -> bool:
    flat = type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)
    return (type(part) is nn.Identity or flat) and not _hooked(part) and "forward" not in vars(part)


def altered(module: nn.Module, kind: type[nn.Module]) -> str:
    """How this module differs from its class ``kind`` as written: class, methods, hooks, tensors; empty
    where it does not.
    """
    name = type(module).__name__
    noted = _NOTED[kind]
    if _written(kind) != noted.written:
        return f"{kind.__name__} was changed after the library was imported"
    if type(type(module)) is not type:
        return f"{name} has a metaclass of its own"
    held = {*module._parameters, *module._buffers, *module._modules, *vars(module), *noted.held}
    changed = override(type(module), kind, held)
    if changed:
        return f"{name} defines {changed} itself"
    shadowed = vars(module).keys() & noted.shadowable
    if shadowed:
        return f"{name} has its own {min(shadowed)} on the instance"
    special = next((word for word in vars(module) if word.startswith("__")), "")
    if special:
        return f"{name} has its own {special} on the instance"
    return _hooked(module) or (_foreign_tensor(module) if kind is not nn.Sequential else "")


def _hooked(module: nn.Module) -> str:
    name = type(module).__name__
    if module._compiled_call_impl is not None:
        return f"{name} was compiled"
    for attribute, word in _HOOKS:
        if getattr(module, attribute):
            return f"{name} has a {word}"
    return ""


def _foreign_tensor(module: nn.Module) -> str:
    """A tensor of a class of its own, or one with a hook on its gradient."""
    name = type(module).__name__
    for word, tensor in _tensors(module):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            return f"{word} of {name} is a {type(tensor).__name__}, not a plain tensor"
        if any(attribute.startswith("__") for attribute in vars(tensor)):
            return f"{word} of {name} has a special method of its own"
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            return f"{word} of {name} has a hook on its gradient"
    return ""


def _shared_storage(module: nn.Module) -> str:
    """Two tensors, or two numbers of one, that lie in the same memory: training one changes the other."""
    spans: list[tuple[int, int, str]] = []
    for word, tensor in _tensors(module):
        if tensor.numel() and tensor.device.type != "meta":
            last = sum(
                (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            if last + 1 < tensor.numel():
                return f"{word} of {type(module).__name__} holds several numbers in one place of memory"
            start = tensor.data_ptr()
            spans.append((start, start + (last + 1) * tensor.element_size(), word))
    spans.sort()
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            return f"{first} and {second} of {type(module).__name__} share memory"
    return ""


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _inconsistent(net: nn.Module, noted: _Noted) -> str:
    """Tensors and sizes that do not fit each other, an activation whose constants nobody has proved, or
    what no fingerprint tells apart.
    """
    name, family = type(net).__name__, noted.family
    if family is None:
        return f"{name} is not a network of the library with a proof"
    try:
        sizes: Sizes = family.sizes(net)
    except Exception as error:  # of a network whose numbers were changed to anything
        return f"the sizes of {name} cannot be read off it ({type(error).__name__}: {error})"
    extra = net._modules.keys() - set(sizes.lists)
    if extra:
        return f"{name} holds a further module, {min(extra)}"
    held = dict(_tensors(net))
    for word in sizes.lists:
        # A list is run through, so that one tensor more is one layer more.
        part = net._modules.get(word)
        listed = {other for other in (*held, *sizes.shapes) if other.startswith(f"{word}.")}
        if (
            type(part) is not nn.ParameterList
            or len(part) != len(listed)
            or not listed <= sizes.shapes.keys()
        ):
            return f"{word} of {name} is not the plain list of its {len(listed & sizes.shapes.keys())} layers"
    for word, shape in sizes.shapes.items():
        if word not in held or tuple(held[word].shape) != shape:
            return f"{word} of {name} does not have the shape {shape} that its sizes ask for"
    unknown = min(
        (word for word in held if word.split(".")[0] in noted.held and word not in sizes.shapes), default=""
    )
    if unknown:
        return f"{unknown} of {name} is not among the tensors that its sizes name"
    if sizes.groups < 1 or sizes.units % sizes.groups:
        return f"the units of {name} do not divide into its groups"
    if not proved_activation(sizes.activation):
        shown = getattr(sizes.activation, "name", sizes.activation)
        return f"the activation {shown!r} is not the library's own, so its constants are not proved"
    for word in sorted((noted.held & vars(net).keys()) - vars(nn.Module()).keys()):
        if not isinstance(vars(net)[word], bool | int | float | str | Activation | None):
            return (
                f"{word} of {name} is a {type(vars(net)[word]).__name__}, whose changes nobody would notice"
            )
    return ""


def _facts(activation: Activation) -> dict[str, object]:
    return {field.name: getattr(activation, field.name) for field in fields(Activation)}


# What the library's activations are, noted when this is imported: whatever happens later to the registry or
# to one of them.
_ACTIVATIONS = {name: _facts(activation) for name, activation in ACTIVATIONS.items()}


def proved_activation(activation: object) -> bool:
    """Whether it is one of the library's activations, whose constants are proved."""
    if type(activation) is not Activation:
        return False
    ours = _ACTIVATIONS.get(activation.name)
    if ours is None:
        try:
            ours = _facts(activation_named(activation.name))
        except InputError:
            return False
    theirs = _facts(activation)
    return vars(activation).keys() == ours.keys() and all(_same(ours[name], theirs[name]) for name in ours)


def _same(a: object, b: object) -> bool:
    """The same function, or partial applications of one to equal arguments (which a copy of a network has
    anew), or equal numbers.
    """
    if isinstance(a, partial) and isinstance(b, partial):
        return a.func is b.func and (a.args, a.keywords) == (b.args, b.keywords)
    if callable(a) or callable(b):
        return a is b
    return type(a) is type(b) and a == b


Fixed = dict[str, Tensor | str]


def fixed_parts(model: nn.Module, varying: tuple[str, ...]) -> Fixed:
    """All that the function depends on besides its ``varying`` parameters: other tensors, and an exact
    network's numbers.

    Tensors are the model's own, not copies.
    """
    skip = set(varying)
    parts: Fixed = {name: tensor.detach() for name, tensor in _tensors(model) if name not in skip}
    core = exact_core(model)
    parts["class"] = type(model if core is None else core.network).__qualname__
    if core is not None:
        if origin(core.family):
            parts["family"] = origin(core.family)
        for name, value in sorted(vars(core.network).items()):
            if isinstance(value, bool | int | float | str) and name != "training":
                parts[core.prefix + name] = repr(value)
            elif isinstance(value, Activation):
                parts[core.prefix + name] = value.name
        parts[core.prefix + "constant"] = repr(getattr(core.network, "constant", None))
    return parts


def fingerprints(parts: Fixed) -> dict[str, str]:
    """A digest of each part. Floating-point tensors are compared as numbers: a network in float64 equals
    its float32 original.
    """

    def digest(part: Tensor | str) -> str:
        if isinstance(part, str):
            return part
        exact = part.double() if part.is_floating_point() else part
        return sha256(repr(tuple(exact.shape)).encode() + raw_bytes(exact)).hexdigest()

    return {name: digest(part) for name, part in sorted(parts.items())}


def first_difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """The name of a part that differs between two networks' `fingerprints`; empty where none does."""
    return next((name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), "")
