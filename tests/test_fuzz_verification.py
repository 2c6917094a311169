"""Standing fuzz of verified bounds: no point that search finds in a threat set lies outside any bound of any method.

Networks of every operation that can be verified, put together at random; a fixed number of seeds runs always, `pytest -m slow` runs many
more. A failure names its seed: ``case(seed)`` is the problem.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import holdfast as hf
from fuzz_cases import Choices
from holdfast.errors import InputError

ROUNDING = 1e-11  # of the largest output: float64 of the network itself
METHODS = ("ibp", "crown-ibp", "crown", "alpha", "auto", "branch", "second-order")

START = (1, 4, 4)  # of an image
ACTIVATIONS = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    lambda: nn.LeakyReLU(0.2),
    lambda: nn.LeakyReLU(1.5),
    nn.ELU,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Tanh,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    lambda: nn.Softplus(beta=3.0),
    lambda: nn.Softplus(threshold=0.5),
)


class Pointwise(nn.Module):
    """Tensor code in place of a layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "square":
                return 0.2 * x.square()
            case "relu2":
                return 0.2 * x.relu().pow(2)
            case "abs":
                return x.abs() - 0.3
            case "exp":
                return (0.3 * x.clamp(max=3.0)).exp()
            case "erf":
                return torch.erf(x)
            case "clamp":
                return x.clamp(-0.4, 0.7)
            case _:
                return 1.5 - 0.5 * x / 2


POINTWISE = ("square", "relu2", "abs", "exp", "erf", "clamp", "affine")


class Skip(nn.Module):
    """``g(x) + s x``, or both beside each other."""

    def __init__(self, inner: nn.Module, scale: float, joined: bool) -> None:
        super().__init__()
        self.inner, self.scale, self.joined = inner, scale, joined

    def forward(self, x: Tensor) -> Tensor:
        out, own = self.inner(x.clone()), self.scale * x
        return torch.cat([out, own], 1) if self.joined else out + own


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem; ``what`` names it in a failure."""

    net: nn.Module
    x: Tensor
    y: Tensor
    threat: hf.LpBall
    what: str


def activation(pick: Choices) -> nn.Module:
    return pick.of([*ACTIVATIONS, *(lambda kind=kind: Pointwise(kind) for kind in POINTWISE)])()


def after(layers: list[nn.Module]) -> torch.Size:
    """Shape of one example behind these layers."""
    with torch.no_grad():
        return nn.Sequential(*layers).eval()(torch.zeros(1, *START)).shape[1:]


def image_layers(pick: Choices, channels: int, side: int) -> tuple[list[nn.Module], int]:
    """Layers on (channels, side, side), and the number of features after them."""
    layers: list[nn.Module] = []
    for _ in range(pick.of((1, 2))):
        out = pick.of((2, 4))
        kernel = pick.of((1, 2, 3))
        conv = nn.Conv2d(
            channels,
            out,
            kernel,
            padding=pick.of((0, 1)),
            stride=pick.of((1, 2)),
            dilation=pick.of((1, 2)) if side > 3 and kernel == 2 else 1,
            groups=pick.of((1, 2)) if channels % 2 == 0 else 1,
            bias=pick.of((True, False)),
            padding_mode="zeros",
        )
        layers.append(conv if side > 2 else nn.Conv2d(channels, out, 1))
        if pick.of((True, False)):
            layers.append(nn.BatchNorm2d(out, affine=pick.of((True, False))))
        layers.append(activation(pick))
        if pick.of((True, False)):
            layers.append(
                Skip(
                    nn.Sequential(nn.Conv2d(out, out, 3, padding=1), activation(pick)),
                    0.7,
                    pick.of((True, False)),
                )
            )
        pools: list[Callable[[], nn.Module]] = [
            nn.Identity,
            lambda: nn.MaxPool2d(3, stride=1, padding=1),
            lambda: nn.AdaptiveAvgPool2d(1),
            lambda: nn.Dropout(0.5),
            lambda: nn.ZeroPad2d(1),
        ]
        if after(layers)[1] > 1:
            pools += [lambda: nn.MaxPool2d(2, stride=1), lambda: nn.AvgPool2d(2, stride=1)]
        layers.append(pick.of(pools)())
        channels, side, _ = after(layers)
        if side < 2:
            break
    return [*layers, nn.Flatten()], math.prod(after(layers))


def network(pick: Choices, flat: int | None, outputs: int) -> nn.Module:
    """From flat examples, or from images where ``flat`` is ``None``."""
    layers: list[nn.Module] = []
    if flat is None:
        layers, flat = image_layers(pick, START[0], START[1])
    kind = pick.of(("dense", "dense", "dense", "two-layer", "library"))
    if kind == "two-layer" and outputs > 1:
        smooth = pick.of(("softplus", "tanh", "gelu", "sigmoid"))
        net = hf.networks.TwoLayer(
            flat, outputs, width=4 * outputs, activation=smooth, paired=True, train_output=False
        )
        return net if not layers else nn.Sequential(*layers, net)
    if kind == "library" and outputs > 1:
        own = pick.of(("relu", "softplus", "relu2", "leaky-relu"))
        layers.append(
            hf.networks.TwoLayer(
                flat, outputs, width=4 * outputs, activation=own, constant=pick.of((0.0, 0.5))
            )
        )
        return nn.Sequential(*layers)
    for _ in range(pick.of((1, 2, 3))):
        width = pick.of((3, 5))
        layers += [nn.Linear(flat, width, bias=pick.of((True, True, False)))]
        if pick.of((True, False, False)):
            layers.append(nn.BatchNorm1d(width))
        layers.append(activation(pick))
        if pick.of((True, False, False)):
            joined = pick.of((True, False))
            layers.append(Skip(nn.Sequential(nn.Linear(width, width), activation(pick)), -0.6, joined))
            width *= 1 + joined
        flat = width
    return nn.Sequential(*layers, nn.Linear(flat, outputs))


def case(seed: int) -> Case:
    """The problem of this seed."""
    pick = Choices(seed)
    outputs, images = pick.of((1, 2, 3, 4)), pick.of((True, False))
    features = pick.of((2, 3, 6))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = network(pick, None if images else features, outputs).double().eval()
    size = pick.of((0.3, 1.0, 3.0))
    with torch.no_grad():
        for name, value in (*net.named_parameters(), *net.named_buffers()):
            if value.is_floating_point() and value.ndim > 0:
                moved = pick.normal(*value.shape)
                value.copy_(moved.abs() + 0.2 if "var" in name else value + size * 0.3 * moved)
    x = pick.normal(3, *(START if images else (features,))).sigmoid()
    x.flatten(1)[0, :2] = torch.tensor([0.0, 1.0], dtype=torch.float64)  # on the edge of the box
    if pick.of((True, False)):
        at_kinks(net, x[:1])
    norm, radius = pick.of(("inf", "2", "1")), pick.of((1e-6, 0.01, 0.1, 0.5))
    fixed = torch.zeros(x.shape[1:], dtype=torch.bool)
    fixed.view(-1)[0] = True
    threat = hf.LpBall(
        norm,
        radius * {"inf": 0.5, "2": 1.0, "1": 2.0}[norm],
        bounds=pick.of((None, (0.0, 1.0))),
        fixed=pick.of((None, None, fixed)),
    )
    with torch.no_grad():
        z = net(x)
    y = (z[:, 0] > 0).long() if outputs == 1 else z.argmax(1)
    return Case(net=net, x=x, y=y, threat=threat, what=f"seed {seed}: {net} {threat}")


def at_kinks(net: nn.Module, x: Tensor) -> None:
    """Biases such that units of the example itself stand at 0, where kinks are."""
    for layer in net.modules():
        if type(layer) is nn.Linear and layer.bias is not None:
            seen: list[Tensor] = []
            hook = layer.register_forward_hook(lambda module, given, out, seen=seen: seen.append(out))
            with torch.no_grad():
                net(x)
                hook.remove()
                layer.bias[::2] -= seen[0][0, ::2]


def margins(outputs: Tensor, y: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return outputs * (2 * y - 1)[:, None]
    return outputs.gather(1, y[:, None]) - outputs


def searched(one: Case, seed: int, steps: int, samples: int) -> tuple[Tensor, Tensor]:
    """Outputs at points of each threat set, (points, examples, outputs), as low in each margin as search takes them; and the labels."""
    draw = torch.Generator().manual_seed(seed)
    x, threat, net = one.x, one.threat, one.net
    found = [x]
    for _ in range(samples):
        found.append(threat.sample(x, generator=draw))
        far = torch.randn(x.shape, generator=draw, dtype=x.dtype)
        found.append(threat.maximise(far, x))
    with torch.no_grad():
        count = net(x).shape[1]
    for wrong in range(count):
        starts = (x, threat.sample(x, generator=draw))
        for points in starts:
            for step in range(steps):
                points = points.detach().requires_grad_()
                low = margins(net(points), one.y)[:, wrong].sum()
                (gradient,) = torch.autograd.grad(low, points, allow_unused=True)
                if gradient is None:
                    break
                corner = threat.maximise(-gradient, x)
                points = threat.project(torch.lerp(points.detach(), corner, 2 / (step + 2)), x)
                found += [points, corner]
    inside = torch.stack(
        [torch.where(threat.contains(p, x).reshape(-1, *[1] * (x.ndim - 1)), p, x) for p in found]
    )
    with torch.no_grad():
        outputs = net(inside.flatten(0, 1).clone()).reshape(len(found), len(x), -1)
    return outputs, one.y.repeat(len(found))


def check(seed: int, *, steps: int = 8, samples: int = 24, seconds: float = 0.3) -> int:
    """Hold what every method says of a problem against what search finds; how many examples were verified."""
    one = case(seed)
    outputs, labels = searched(one, seed, steps, samples)
    if not bool(outputs.isfinite().all()):
        return 0
    try:
        hf.verify(one.net, one.x, one.y, one.threat, "ibp")
    except InputError as error:
        if "probabilities" not in str(error):
            raise
        return 0  # outputs in [0, 1] by chance
    least = margins(outputs.flatten(0, 1), labels).reshape(outputs.shape).amin(0)
    right = hf.losses.correct(outputs.flatten(0, 1), labels).reshape(outputs.shape[:2]).all(0)
    size = ROUNDING * (1 + float(outputs.abs().amax()))
    verified = 0
    for method in METHODS:
        proof = None
        limit = seconds if method in ("branch", "auto") else None
        if method in ("second-order", "branch"):  # which are for some networks alone
            with suppress(InputError):
                proof = hf.verify(one.net, one.x, one.y, one.threat, method, seconds=limit)
        else:
            proof = hf.verify(one.net, one.x, one.y, one.threat, method, steps=3, seconds=limit)
        if proof is None:
            continue
        assert (proof.margins <= least + size).all(), (one.what, method, proof.margins, least)
        assert (proof.outputs_lower <= outputs.amin(0) + size).all(), (one.what, method)
        assert (proof.outputs_upper >= outputs.amax(0) - size).all(), (one.what, method)
        assert (right | ~proof.verified).all(), (one.what, method)
        verified += int(proof.verified.sum())
    return verified


def test_a_leaky_slope_is_no_float32_number():
    """Found by this fuzz: a slope of 0.01 rounded to float32 lifted margins by 1e-10 in a tiny ball."""
    for seed in (1046, 3, 17):
        check(seed, samples=4)


def test_no_point_of_a_threat_set_is_outside_a_verified_bound():
    verified = sum(check(seed) for seed in range(24))
    assert verified >= 100  # a fuzz that verifies nothing checks nothing


@pytest.mark.slow
def test_no_point_of_a_threat_set_is_outside_a_verified_bound_at_length():
    assert sum(check(seed, steps=25, samples=100, seconds=1.0) for seed in range(1000, 1300)) >= 1000
