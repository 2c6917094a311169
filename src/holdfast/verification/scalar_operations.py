"""Scalar functions and max pooling as steps of a `Graph`."""

from torch import Tensor

from holdfast.verification import scalars
from holdfast.verification.graph import Maximum, Unit
from holdfast.verification.linear_maps import LinearMap, reshape, scale
from holdfast.verification.recording import Tracer, Translation, shape_of
from holdfast.verification.scalars import Scalar
from holdfast.verification.translating import Arguments, Options, affine, constant, spread, value


def _max_pool(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    x, kernel, *rest = args
    stride = rest[0] if len(rest) > 0 and rest[0] else kernel
    padding, dilation = (rest[1] if len(rest) > 1 else [0]), (rest[2] if len(rest) > 2 else [1])
    kernel, stride, padding, dilation = (spread(pair, 2) for pair in (kernel, stride, padding, dilation))
    if len(rest) > 3 and rest[3]:
        raise tracer.refuse("max pooling with ceil_mode")
    return tracer.record(
        Maximum(
            shape=shape_of(out),
            inputs=(value(tracer, x),),
            source=shape_of(x),
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            padding=(padding[0], padding[1]),
            dilation=(dilation[0], dilation[1]),
        )
    )


def _unit(tracer: Tracer, out: Tensor, number: int, scalar: Scalar) -> int:
    if scalar.misdescribed:
        raise tracer.refuse(f"{scalar.name} with parameters that change its shape")
    return tracer.record(Unit(shape=shape_of(out), inputs=(number,), scalar=scalar))


def pointwise(scalar: Scalar) -> Translation:
    """The operation that applies ``scalar`` to each number of its first argument."""
    return lambda tracer, out, args, kwargs: _unit(tracer, out, value(tracer, args[0]), scalar)


def _leaky_relu(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    slope = args[1] if len(args) > 1 else 0.01
    return pointwise(scalars.kinked("leaky-relu", float(slope), 1.0))(tracer, out, args, kwargs)


def _softplus(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    beta = args[1] if len(args) > 1 else 1.0
    threshold = args[2] if len(args) > 2 else 20.0
    if not beta > 0:
        raise tracer.refuse(f"softplus with beta {beta}, which is not above 0")
    return pointwise(scalars.softplus(float(beta), float(threshold)))(tracer, out, args, kwargs)


def _elu(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    alpha = float(args[1]) if len(args) > 1 else 1.0
    if any(value != 1 for value in args[2:]) or not 0 <= alpha <= 1:
        raise tracer.refuse("ELU with a scale or with alpha outside [0, 1]")
    return pointwise(scalars.elu(alpha))(tracer, out, args, kwargs)


def _gelu(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if kwargs.get("approximate", "none") != "none":
        raise tracer.refuse("GELU approximated by tanh")
    return pointwise(scalars.GELU)(tracer, out, args, kwargs)


def _power(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    if len(args) > 1 and args[1] != 2:
        raise tracer.refuse(f"the power {args[1]}")
    number = value(tracer, args[0])
    before = tracer.steps[number]
    if (
        isinstance(before, Unit) and before.scalar is scalars.RELU
    ):  # one bend is bounded tighter than two steps
        return _unit(tracer, out, before.inputs[0], scalars.SQUARED_RELU)
    return _unit(tracer, out, number, scalars.SQUARE)


def _clamp(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    return _between(tracer, out, args[0], low, high)


def _clamp_max(tracer: Tracer, out: Tensor, args: Arguments, kwargs: Options) -> int:
    return _between(tracer, out, args[0], None, args[1])


def _between(tracer: Tracer, out: Tensor, x: Tensor, low: float | None, high: float | None) -> int:
    """``low + relu(x - low) - relu(x - high)``."""
    if any(isinstance(edge, Tensor) for edge in (low, high)):
        raise tracer.refuse("clamp to tensors")
    if low is not None and high is not None and not low <= high:
        raise tracer.refuse(f"clamp to a range from {low} to {high}, which is empty")
    number = value(tracer, x)
    same = reshape(shape_of(out), shape_of(out))

    def above(edge: float) -> int:
        return _unit(
            tracer, out, affine(tracer, out, [(number, same)], constant(tracer, -edge, out)), scalars.RELU
        )

    if low is not None:
        terms: list[tuple[int, LinearMap]] = [
            (above(low) if low else _unit(tracer, out, number, scalars.RELU), same)
        ]
        if low == 0 and high is None:
            return terms[0][0]
    else:
        terms, low = [(number, same)], 0.0
    if high is not None:
        terms.append((above(high), scale(out.new_tensor(-1.0), shape_of(out))))
    return affine(tracer, out, terms, constant(tracer, low, out))


NONLINEAR: dict[str, Translation] = {
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool2d"), _max_pool),
    "relu": pointwise(scalars.RELU),
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
    "elu": _elu,
    "sigmoid": pointwise(scalars.SIGMOID),
    "tanh": pointwise(scalars.TANH),
    "erf": pointwise(scalars.ERF),
    "gelu": _gelu,
    "silu": pointwise(scalars.SILU),
    "exp": pointwise(scalars.EXP),
    "abs": pointwise(scalars.ABS),
    "square": _power,
    "pow": _power,
    **dict.fromkeys(("clamp", "clamp_min", "hardtanh"), _clamp),
    "clamp_max": _clamp_max,
}
