"""Is this exactly a network that a proof was written for, and why not: the one place that decides it.

Proofs, kernels and closed forms hold for the library's classes run exactly as they are written. What else a module may do
(override a method, bear a hook, replace a tensor by a parametrisation) is not looked into: any of it means "not exact". What a
proof reads of an exact network (rows, signs, scales) it derives from the tensors at that time.
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
from holdfast.networks.activations import ACTIVATIONS, Activation, activation_named
from holdfast.networks.dense import Dense
from holdfast.networks.two_layer import TwoLayer

Exact = TwoLayer | Dense

_PLUMBING = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__", "__setattr__")
_HOOKS = (
    ("_forward_hooks", "forward hook"),
    ("_forward_pre_hooks", "forward pre-hook"),
    ("_backward_hooks", "backward hook"),
    ("_backward_pre_hooks", "backward pre-hook"),
)


def _written(kind: type[nn.Module]) -> dict[str, Any]:
    """What the class and torch's own machinery say now; compared with what they said when this module was imported."""
    own = {name: value for name, value in vars(kind).items() if isinstance(value, FunctionType | property)}
    return own | {name: getattr(kind, name) for name in ("forward", *_PLUMBING)}


_WRITTEN: dict[type[nn.Module], dict[str, Any]] = {
    kind: _written(kind) for kind in (TwoLayer, Dense, nn.Sequential)
}
_SHADOWABLE = {
    kind: {
        name
        for name in dir(kind)
        if callable(getattr(kind, name)) or isinstance(vars(kind).get(name), property)
    }
    for kind in _WRITTEN
}


# What an instance holds and its methods read: a class attribute of that name would hide it.
_HELD: dict[type[nn.Module], set[str]] = {
    type(net): {*vars(net), *net._parameters, *net._buffers, *net._modules}
    for net in (TwoLayer(1, 2, 2), Dense(1, 2, 2, 1))
}


@dataclass(frozen=True, kw_only=True)
class Core:
    """The library's network inside a model.

    Attributes:
        network: the `TwoLayer` or `Dense` network itself.
        prefix: what its parameters' names begin with in the model, e.g. ``0.`` inside `nn.Sequential`.
    """

    network: Exact
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
    """The network of the library that ``model`` computes exactly, or ``None``; `why_not_exact` has the reason.

    >>> exact_core(nn.Sequential(TwoLayer(3, 2, 4))).prefix
    '0.'
    """
    found = _core(model)
    return found if isinstance(found, Core) else None


def core_of(model: nn.Module, kind: type[Exact]) -> Core:
    """The network of this class that ``model`` computes exactly.

    Raises:
        InputError: it is not one.
    """
    core = exact_core(model)
    if core is None or not isinstance(core.network, kind):
        why = why_not_exact(model) or f"{type(model).__name__} is another network"
        raise InputError(
            f"this curvature is proved for {kind.__name__} networks alone, but {why}; leave curvature out."
        )
    return core


def why_not_exact(model: nn.Module) -> str:
    """Why ``model`` is not exactly a `TwoLayer` or `Dense` network; empty where it is one.

    A class that inherits one of them and overrides nothing, and `nn.Sequential` of one (beside `nn.Identity` and `nn.Flatten`), are exact too.

    >>> why_not_exact(nn.Linear(2, 2))
    'Linear is not a network of the library'
    """
    found = _core(model)
    return "" if isinstance(found, Core) else found


def _core(model: nn.Module) -> Core | str:
    if torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return "a hook on all modules is registered, so that no module is exactly as written"
    if type(model) is nn.Sequential:
        return altered(model, nn.Sequential) or _wrapped(model)
    for kind in (TwoLayer, Dense):
        if isinstance(model, kind):
            why = altered(model, kind) or _inconsistent(model) or _shared_storage(model)
            return why or Core(network=model, prefix="")
    return f"{type(model).__name__} is not a network of the library"


def _wrapped(model: nn.Sequential) -> Core | str:
    """The one network in a chain whose other members do nothing (both networks flatten their inputs themselves)."""
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
    return Core(network=found.network, prefix=f"{inner[0][0]}.{found.prefix}")


def _does_nothing(part: nn.Module) -> bool:
    flat = type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1)
    return (type(part) is nn.Identity or flat) and not _hooked(part) and "forward" not in vars(part)


def altered(module: nn.Module, kind: type[nn.Module]) -> str:
    """How this module differs from its class ``kind`` as written: class, methods, hooks, tensors; empty where it does not."""
    name = type(module).__name__
    if _written(kind) != _WRITTEN[kind]:
        return f"{kind.__name__} was changed after the library was imported"
    if type(type(module)) is not type:
        return f"{name} has a metaclass of its own"
    held = {*module._parameters, *module._buffers, *module._modules, *vars(module), *_HELD.get(kind, ())}
    changed = override(type(module), kind, held)
    if changed:
        return f"{name} defines {changed} itself"
    shadowed = vars(module).keys() & _SHADOWABLE[kind]
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


def _inconsistent(net: nn.Module) -> str:
    """Tensors and sizes that do not fit each other, or an activation whose constants nobody has proved."""
    if isinstance(net, TwoLayer):
        allowed, shapes = set[str](), {
            "weight": (net.width, net.input_size), "output_weight": (net.width, net.outputs), "scale": (),
        }  # fmt: skip
        divided = net.groups > 0 and net.width % net.groups == 0
    elif isinstance(net, Dense):
        allowed, divided = {"weights"}, net.groups > 0 and net.width % net.groups == 0
        first = net.features if net.input_weight is None else net.width
        columns = [first, *[net.width] * (net.depth - 1)]
        shapes = {f"weights.{h}": (net.width, columns[h]) for h in range(net.depth)}
        shapes["output_weight"] = (net.outputs, net.width)
        if len(net.weights) != net.depth or type(net.weights) is not nn.ParameterList:
            return f"weights of {type(net).__name__} are not its {net.depth} layers"
    else:
        return f"{type(net).__name__} is not a network of the library"
    extra = net._modules.keys() - allowed
    if extra:
        return f"{type(net).__name__} holds a further module, {min(extra)}"
    held = dict(_tensors(net))
    for word, shape in shapes.items():
        if word not in held or tuple(held[word].shape) != shape:
            return f"{word} of {type(net).__name__} does not have the shape {shape} that its sizes ask for"
    if not divided:
        return f"the units of {type(net).__name__} do not divide into its groups"
    return (
        ""
        if proved_activation(net.activation)
        else (
            f"the activation {getattr(net.activation, 'name', net.activation)!r} is not the library's own, so its constants are not proved"
        )
    )


def _facts(activation: Activation) -> dict[str, object]:
    return {field.name: getattr(activation, field.name) for field in fields(Activation)}


# What the library's activations are, noted when this is imported: whatever happens later to the registry or to one of them.
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
    """The same function, or partial applications of one to equal arguments (which a copy of a network has anew), or equal numbers."""
    if isinstance(a, partial) and isinstance(b, partial):
        return a.func is b.func and (a.args, a.keywords) == (b.args, b.keywords)
    if callable(a) or callable(b):
        return a is b
    return type(a) is type(b) and a == b


Fixed = dict[str, Tensor | str]


def fixed_parts(model: nn.Module, varying: tuple[str, ...]) -> Fixed:
    """All that the function depends on besides its ``varying`` parameters: other tensors, and an exact network's numbers.

    Tensors are the model's own, not copies.
    """
    skip = set(varying)
    parts: Fixed = {name: tensor.detach() for name, tensor in _tensors(model) if name not in skip}
    core = exact_core(model)
    parts["class"] = type(model).__qualname__ if core is None else type(core.network).__qualname__
    if core is not None:
        for name, value in sorted(vars(core.network).items()):
            if isinstance(value, bool | int | float | str) and name != "training":
                parts[core.prefix + name] = repr(value)
            elif isinstance(value, Activation):
                parts[core.prefix + name] = value.name
        parts[core.prefix + "constant"] = repr(getattr(core.network, "constant", None))
    return parts


def fingerprints(parts: Fixed) -> dict[str, str]:
    """A digest of each part. Floating-point tensors are compared as numbers: a network in float64 equals its float32 original."""

    def digest(part: Tensor | str) -> str:
        if isinstance(part, str):
            return part
        exact = part.double() if part.is_floating_point() else part
        return sha256(repr(tuple(exact.shape)).encode() + raw_bytes(exact)).hexdigest()

    return {name: digest(part) for name, part in sorted(parts.items())}


def first_difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """The name of a part that differs between two networks' `fingerprints`; empty where none does."""
    return next((name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)), "")
