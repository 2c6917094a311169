"""Affine operations as steps of a `Graph`: shapes, sums, products with constants, convolutions, batch
norm.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from holdfast.verification import scalars
from holdfast.verification.graph import Affine, Unit
from holdfast.verification.linear_maps import (
    ConvolutionMap,
    LinearMap,
    MatrixMap,
    MonotoneMap,
    Shape,
    reshape,
    scale,
)
from holdfast.verification.recording import BATCH_NORMS, Tracer, Translation, shape_of
from holdfast.verification.translating import (
    Arguments,
    Options,
    affine,
    constant,
    scaled,
    spread,
    value,
    widen,
)


def _same_numbers(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return affine(tracer, out, [(value(tracer, args[0]), reshape(shape_of(args[0]), shape_of(out)))])


def _itself(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return value(tracer, args[0])


def _converted(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if out.dtype not in (torch.float32, torch.float64):
        raise tracer.refuse(f"a conversion to {out.dtype}, which rounds")
    return _itself(tracer, out, args, kwargs)


def _expand(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return widen(tracer, args[0], out)


def _monotone(operation: Callable[..., Tensor], terms: Callable[..., int]) -> Translation:
    def translation(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
        x, *rest = args
        linear = MonotoneMap(
            source=shape_of(x),
            target=shape_of(out),
            terms=terms(x, out, *rest),
            function=lambda v: operation(v, *rest, **kwargs),
        )
        return affine(tracer, out, [(value(tracer, x), linear)])

    return translation


def _over_dims(operation: Callable[..., Tensor], terms: Callable[..., int]) -> Translation:
    """A monotone map whose second argument names dimensions; the batch may not be among them."""
    inner = _monotone(operation, terms)

    def translation(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        named = [dims] if isinstance(dims, int) else list(dims or range(args[0].ndim))
        if any(dim % args[0].ndim == 0 for dim in named):
            raise tracer.refuse(f"{operation} across examples")
        return inner(tracer, out, args, kwargs)

    return translation


def _permute(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if args[1][0] % args[0].ndim != 0:
        raise tracer.refuse("'permute' of the batch")
    return _monotone(torch.ops.aten.permute.default, _one)(tracer, out, args, kwargs)


def _transpose(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if any(dim % args[0].ndim == 0 for dim in args[1:3]):
        raise tracer.refuse("'transpose' of the batch")
    return _monotone(torch.ops.aten.transpose.int, _one)(tracer, out, args, kwargs)


def _slice(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    dim, start = (args[1] if len(args) > 1 else 0), (args[2] if len(args) > 2 else 0)
    if dim % args[0].ndim == 0:
        if start:
            raise tracer.refuse("a slice of the batch")
        return _same_numbers(tracer, out, args, kwargs)
    return _monotone(torch.ops.aten.slice.Tensor, _one)(tracer, out, args, kwargs)


def _one(*_: object) -> int:
    return 1


def _summed(x: Tensor, out: Tensor, *_: object) -> int:
    return max(1, x.numel() // max(1, out.numel()))


def _kernel(x: Tensor, out: Tensor, kernel: Sequence[int], *_: object) -> int:
    return math.prod(kernel)


def _pad(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    x, pad = args[:2]
    filling = args[2] if len(args) > 2 else 0.0
    if len(pad) >= 2 * x.ndim:
        raise tracer.refuse("padding of the batch")
    operation = torch.ops.aten.constant_pad_nd.default
    linear = MonotoneMap(
        source=shape_of(x), target=shape_of(out), terms=1, function=lambda v: operation(v, pad, 0.0)
    )
    offset = operation(torch.zeros_like(x), pad, filling)[0] if filling else None
    return affine(tracer, out, [(value(tracer, x), linear)], offset)


def _add(
    tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options, *, sign: float = 1.0, reverse: bool = False
) -> int:
    first, second = args[:2]
    alpha: float = sign * (args[2] if len(args) > 2 else kwargs.get("alpha", 1))
    parts = [(first, alpha if reverse else 1.0), (second, 1.0 if reverse else alpha)]
    terms: list[tuple[int, LinearMap]] = []
    offset = None
    for part, factor in parts:
        if tracer.number(part) is None:
            offset = factor * constant(tracer, part, out)
        else:
            number = widen(tracer, part, out)
            same = reshape(shape_of(out), shape_of(out))
            terms.append((number, same if factor == 1 else scale(out.new_tensor(factor), shape_of(out))))
    return affine(tracer, out, terms, offset)


def _subtract(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return _add(tracer, out, args, kwargs, sign=-1.0)


def _subtract_from(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return _add(tracer, out, args, kwargs, sign=-1.0, reverse=True)


def _negate(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return scaled(tracer, out, args[0], -1.0)


def _multiply(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    first, second = args[:2]
    if tracer.number(first) is not None and tracer.number(second) is not None:
        if tracer.number(first) == tracer.number(second):
            return tracer.record(
                Unit(shape=shape_of(out), inputs=(value(tracer, first),), scalar=scalars.SQUARE)
            )
        raise tracer.refuse("a product of two values")
    tensor, factor = (first, second) if tracer.number(first) is not None else (second, first)
    return scaled(tracer, out, tensor, factor)


def _divide(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if tracer.number(args[1]) is not None or kwargs.get("rounding_mode") is not None:
        raise tracer.refuse("a division by a value")
    return scaled(tracer, out, args[0], 1.0 / torch.as_tensor(args[1], dtype=out.dtype))


def _concatenate(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    parts = list(args[0])
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    return _joined(tracer, out, parts, [shape_of(part) for part in parts], dim)


def _stack(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    shape = shape_of(args[0][0])
    return _joined(
        tracer, out, list(args[0]), [(*shape[: dim - 1], 1, *shape[dim - 1 :])] * len(args[0]), dim
    )


def _joined(tracer: Tracer, out: Tensor, parts: list[Tensor], shapes: list[Shape], dim: int) -> int:
    if dim == 0:
        raise tracer.refuse("concatenation of batches")
    offset, start = torch.zeros_like(out[0]), 0
    terms: list[tuple[int, LinearMap]] = []
    for part, shape in zip(parts, shapes, strict=True):
        size = shape[dim - 1]
        if tracer.number(part) is None:
            place = torch.zeros_like(out)
            place.narrow(dim, start, size).copy_(part.reshape(len(part), *shape))
            offset += constant(tracer, place, out)
        else:
            after = out.shape[dim] - start - size
            pad = [0, 0] * (out.ndim - 1 - dim) + [start, after]
            linear = MonotoneMap(
                source=shape_of(part),
                target=shape_of(out),
                terms=1,
                function=_padding(shape, pad),
            )
            terms.append((value(tracer, part), linear))
        start += size
    return affine(tracer, out, terms, offset)


def _padding(shape: Shape, pad: list[int]) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.nn.functional.pad(v.reshape(len(v), *shape), pad)


def _product(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    x, weight = args[:2]
    return _matrix(tracer, out, x, weight.T if weight.ndim == 2 else weight[None], None)


def _product_plus(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    bias, x, weight = args[:3]
    if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1:
        raise tracer.refuse("'addmm' with factors")
    return _matrix(tracer, out, x, weight.T, bias)


def _linear(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return _matrix(tracer, out, args[0], args[1], args[2] if len(args) > 2 else None)


def _matrix(tracer: Tracer, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    if tracer.number(weight) is not None or (bias is not None and tracer.number(bias) is not None):
        raise tracer.refuse("a product of two values")
    flat = (weight.shape[0],)
    linear = MatrixMap(source=shape_of(x), target=flat, terms=max(weight.shape), weight=weight.contiguous())
    offset = None if bias is None else bias.expand(flat).clone()
    number = tracer.record(Affine(shape=flat, terms=((value(tracer, x), linear),), offset=offset))
    if flat == shape_of(out):
        return number
    return affine(tracer, out, [(number, reshape(flat, shape_of(out)))])


def _convolution(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    if transposed or tracer.number(weight) is not None:
        raise tracer.refuse("a transposed convolution")
    dims = x.ndim - 2
    linear = ConvolutionMap(
        source=shape_of(x),
        target=shape_of(out),
        terms=weight[0].numel() + weight[:, 0].numel(),
        weight=weight,
        stride=spread(stride, dims),
        padding=spread(padding, dims),
        dilation=spread(dilation, dims),
        groups=groups,
    )
    offset = None if bias is None else bias.reshape(-1, *([1] * dims)).expand(shape_of(out)).clone()
    return affine(tracer, out, [(value(tracer, x), linear)], offset)


def _batch_norm(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    x, weight, bias, mean, variance = args[:5]
    epsilon = args[-1]
    if mean is None or variance is None or (len(args) == 8 and args[5]):
        raise tracer.refuse("batch norm without running statistics")
    factor = (variance + epsilon).rsqrt()
    factor = factor if weight is None else factor * weight
    offset = -mean * factor if bias is None else bias - mean * factor
    form = (-1, *([1] * (x.ndim - 2)))
    linear = scale(factor.reshape(form).expand(shape_of(out)).clone(), shape_of(out))
    return affine(
        tracer, out, [(value(tracer, x), linear)], offset.reshape(form).expand(shape_of(out)).clone()
    )


_OPS = torch.ops.aten
_RESHAPING = (
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "unsqueeze",
    "squeeze",
)

AFFINE: dict[str, Translation] = {
    **dict.fromkeys(_RESHAPING, _same_numbers),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias"), _itself),
    "_to_copy": _converted,
    "expand": _expand,
    "permute": _permute,
    "transpose": _transpose,
    "slice": _slice,
    "select": _over_dims(_OPS.select.int, _one),
    "sum": _over_dims(_OPS.sum.dim_IntList, _summed),
    "mean": _over_dims(_OPS.mean.dim, _summed),
    "constant_pad_nd": _pad,
    "avg_pool2d": _monotone(_OPS.avg_pool2d.default, _kernel),
    "_adaptive_avg_pool2d": _monotone(_OPS._adaptive_avg_pool2d.default, lambda x, out, *_: x[0, 0].numel()),
    "upsample_nearest2d": _monotone(_OPS.upsample_nearest2d.default, lambda x, out, *_: out[0, 0].numel()),
    "add": _add,
    "sub": _subtract,
    "rsub": _subtract_from,
    "neg": _negate,
    "mul": _multiply,
    "div": _divide,
    "cat": _concatenate,
    "stack": _stack,
    "mm": _product,
    "mv": _product,
    "addmm": _product_plus,
    "linear": _linear,
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
}
