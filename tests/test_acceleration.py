"""Closed-form input gradients against autograd, what is recognised and what is not, and weights projected in pieces."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

from holdfast import _products
from holdfast.acceleration import closed_form, enabled, is_enabled, outputs, recognise
from holdfast.acceleration.layers import IMAGES
from holdfast.attacks import PGD
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.modes import attacking
from holdfast.errors import InputError
from holdfast.families.two_layer.closed_form import BLOCK
from holdfast.losses import CrossEntropy
from holdfast.networks import Activation, Dense, MNISTConv, TwoLayer
from holdfast.networks.activations import ACTIVATIONS, RELU
from holdfast.threats import LpBall
from holdfast.training import ParameterBall
from holdfast.training.ball import PIECE, ROUGH


@pytest.fixture(autouse=True)
def _small_networks_too(monkeypatch):
    monkeypatch.setattr(recognise, "LEAST_WORK", 0)
    monkeypatch.delenv("HOLDFAST_ACCELERATION", raising=False)


def perceptron(*bends: nn.Module, inputs: int = 12, outputs: int = 4) -> nn.Sequential:
    """Linear layers with these activations between them, one after each but the last."""
    sizes = [inputs, *([9] * len(bends)), outputs]
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for i, bend in enumerate(bends, 1):
        layers += [bend, nn.Linear(sizes[i], sizes[i + 1])]
    return nn.Sequential(*layers)


def moved(model: nn.Module) -> nn.Module:
    """The wide networks start at 0; away from it their outputs say something."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return model


def convolutions() -> nn.Module:
    """Every option of the layers for images that has a closed form, with ReLU before and after pooling."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(5, 8, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(8, 6, (3, 2), padding=(2, 1), dilation=2, groups=2), nn.Identity()),
        nn.MaxPool2d(2, stride=1, ceil_mode=True),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


ROWS = 7
FLAT, IMAGE, COLOUR = (12,), (1, 12, 12), (3, 8, 8)
MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(12, 3, bias=False)), FLAT),
    "linear-alone": (lambda: nn.Linear(12, 3), FLAT),
    "relu": (lambda: perceptron(nn.ReLU(), nn.ReLU(inplace=True)), FLAT),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2)), IMAGE),
    "relu-first-and-last": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(12, 4), nn.ReLU()), FLAT),
    "one-output": (lambda: perceptron(nn.ReLU(), outputs=1), FLAT),
    "two-bends": (
        lambda: nn.Sequential(
            nn.Linear(12, 6), nn.Sigmoid(), nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.Linear(6, 3)
        ),
        FLAT,
    ),
    "sigmoid-tanh": (lambda: perceptron(nn.Sigmoid(), nn.Tanh()), FLAT),
    "silu-gelu": (lambda: perceptron(nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")), FLAT),
    "softplus-elu-leaky": (lambda: perceptron(nn.Softplus(2.0, 5.0), nn.ELU(0.7), nn.LeakyReLU(0.2)), FLAT),
    "conv": (lambda: MNISTConv(classes=3, size=12), IMAGE),
    "conv-flat-input": (lambda: MNISTConv(classes=2, size=12), (144,)),
    "conv-colour": (lambda: MNISTConv(classes=3, channels=3, size=8), COLOUR),
    "conv-options": (convolutions, (5, 13, 11)),
    "dense": (lambda: moved(Dense(12, 3, 10, 3)), FLAT),
    "dense-plain-start": (
        lambda: moved(Dense(144, 2, 10, 1, "relu", zero_start=False, input_layer=False)),
        IMAGE,
    ),
    **{
        f"two-layer-{name}": (lambda name=name: moved(TwoLayer(12, 2, 20, name)), FLAT)
        for name in ACTIVATIONS
    },
    **{
        f"two-layer-5-{name}": (lambda name=name: moved(TwoLayer(12, 5, 20, name)), FLAT)
        for name in ACTIVATIONS
    },
    "two-layer-centred": (
        lambda: moved(TwoLayer(144, 2, 8, scale=0.3, center=torch.arange(144.0) / 144, constant=0.5)),
        IMAGE,
    ),
    "two-layer-trained-output": (lambda: moved(TwoLayer(12, 3, 8, outputs="dense", train_output=True)), FLAT),
    # more blocks of weights than one, the last of them smaller
    "two-layer-blocks": (lambda: moved(TwoLayer(BLOCK // 256, 2, 600, "relu")), (BLOCK // 256,)),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    make, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        model(torch.zeros(1, *shape))
    x = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model.to(dtype), x.to(dtype)


def weighted(outputs: torch.Tensor) -> torch.Tensor:
    """A value whose slopes differ from row to row and output to output."""
    ranks = torch.arange(1.0, outputs.numel() + 1, dtype=outputs.dtype).reshape(outputs.shape)
    return (outputs * ranks.cos() + 0.1 * outputs.square()).sum(1)


def both_ways(model, x, value=weighted):
    with attacking(model, "keep"):
        assert closed_form(model, x) is not None
        fast = outputs_and_gradient(model, x, value)
        with enabled(False):
            assert closed_form(model, x) is None
            return fast, outputs_and_gradient(model, x, value)


def assert_close(fast, plain, tolerance: float) -> None:
    for mine, autograds in zip(fast, plain, strict=True):
        assert mine.shape == autograds.shape
        assert mine.dtype == autograds.dtype
        assert not mine.requires_grad
        assert (mine - autograds).abs().max() <= tolerance * autograds.abs().max()
    assert plain[1].abs().max() > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_closed_forms_are_autograds_outputs_and_gradients(name, dtype, tolerance):
    model, x = built(name, dtype)
    before = [tensor.clone() for tensor in (x, *model.state_dict().values())]
    fast, plain = both_ways(model, x)
    assert_close(fast, plain, tolerance)
    after = (x, *model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "something was overwritten"
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["relu", "conv", "conv-colour", "dense", "two-layer-relu"])
def test_points_of_any_layout_and_value(name):
    model, x = built(name)
    spread = torch.stack([x, x], -1)[..., 0]
    assert not spread.is_contiguous()
    plain = both_ways(model, x)[1]
    assert_close(both_ways(model, spread)[0], plain, 1e-12)
    assert_close(both_ways(model, x.clone().requires_grad_())[0], plain, 1e-12)
    total = both_ways(model, x, lambda outputs: outputs.sum(1))  # its slopes are one number, expanded
    assert_close(*total, 1e-12)


def test_images_are_handled_in_portions():
    model, _ = built("conv")
    rows = 2 * IMAGES * torch.get_num_threads() + 3
    x = torch.randn(rows, 1, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_close(*both_ways(model, x), 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_kinks_and_ties_follow_autograd(name):
    """Small whole numbers: sums are exact in any order, preactivations hit 0 and windows tie, slopes must be the same bits."""
    model, x = built(name)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=draw))
    x = torch.randint(-1, 2, x.shape, generator=draw).to(x.dtype)
    x[0] = 0
    fast, plain = both_ways(model, x, lambda outputs: outputs.sum(1))
    exact = not isinstance(model, TwoLayer | Dense)  # whose scales are no whole numbers
    smooth = any(isinstance(part, nn.Sigmoid | nn.SiLU | nn.Softplus) for part in model.modules())
    for mine, autograds in zip(fast, plain, strict=True):
        if exact and not smooth:
            assert torch.equal(mine, autograds)
        torch.testing.assert_close(mine, autograds, rtol=1e-10, atol=1e-10 * float(autograds.abs().max()))


def test_whole_numbers_do_make_kinks_and_ties():
    """The test above would prove nothing if no preactivation were 0 and no window tied."""
    draw = torch.Generator().manual_seed(5)
    weight = torch.randint(-1, 2, (32, 1, 5, 5), generator=draw).double()
    x = torch.randint(-1, 2, (ROWS, 1, 12, 12), generator=draw).double()
    u = nn.functional.conv2d(x, weight, padding=2)
    windows = u.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    ties = (windows == windows.amax(-1, keepdim=True)).sum(-1) > 1
    assert (u == 0).any()
    assert ties.any()
    assert (ties & (windows.amax(-1) > 0)).any()


def test_not_a_number_stays_in_its_row():
    model, x = built("conv")
    x[2, 0, 3, 3] = math.nan
    fast, plain = both_ways(model, x)
    for mine, autograds in zip(fast, plain, strict=True):
        assert torch.equal(mine.flatten(1).isnan().any(1), autograds.flatten(1).isnan().any(1))
        others = [0, 1, 3, 4, 5, 6]
        torch.testing.assert_close(mine[others], autograds[others])


def test_weights_are_read_anew_in_every_call():
    model, x = built("relu")
    both_ways(model, x)
    model[0].weight.data.mul_(-2.0)  # which no version counter notices
    with torch.no_grad():
        model[2].bias += 1.0
    model[4].weight = nn.Parameter(model[4].weight.detach() + 1.0)
    assert_close(*both_ways(model, x), 1e-12)


def test_a_value_without_gradient_is_refused():
    model, x = built("relu")
    with attacking(model, "keep"), pytest.raises(InputError, match="differentiable"):
        outputs_and_gradient(model, x, lambda outputs: outputs.detach().sum(1))


class Wrapped(nn.Linear):
    """A subclass that does something else."""

    def forward(self, x):
        return 2 * super().forward(x)


class Halved(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return weight / 2


def _hooked(register):
    def change(model):
        getattr(model[2], register)(lambda *arguments: None)

    return change


def _own_forward(model):
    plain = model[0].forward
    model[0].forward = lambda x: 3 * plain(x)


def _own_call(model):
    model[1]._call_impl = lambda x: x.tanh()


def _own_hidden(model):
    register_parametrization(model[0], "weight", Halved())


def _weight_norm(model):
    parametrizations.weight_norm(model[4])


def _replaced(layer):
    def change(model):
        model[2] = layer

    return change


CHANGES = {
    "subclass": _replaced(Wrapped(9, 9)),
    "forward-hook": _hooked("register_forward_hook"),
    "pre-hook": _hooked("register_forward_pre_hook"),
    "backward-hook": _hooked("register_full_backward_hook"),
    "backward-pre-hook": _hooked("register_full_backward_pre_hook"),
    "own-forward": _own_forward,
    "own-call": _own_call,
    "parametrised": _own_hidden,
    "weight-norm": _weight_norm,
    "dropout-in-training": lambda model: model.add_module("5", nn.Dropout(0.5).train()),
    "unknown-layer": _replaced(nn.LayerNorm(9)),
    "other-dtype": lambda model: model[2].float(),
    "half": lambda model: model.half(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_known_takes_the_plain_path(change):
    model, x = built("relu")
    assert closed_form(model, x) is not None
    CHANGES[change](model)
    assert closed_form(model, x) is None


@pytest.mark.parametrize("change", ["subclass", "own-forward", "own-call", "parametrised", "weight-norm"])
def test_what_is_not_known_is_differentiated_as_it_is(change):
    model, x = built("relu")
    CHANGES[change](model.double())
    model.double().requires_grad_(False)
    _, gradient = outputs_and_gradient(model, x, weighted)
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)
    step = 1e-6
    rise = (weighted(model(x + step * along)) - weighted(model(x - step * along))) / (2 * step)
    torch.testing.assert_close((gradient * along).sum(1), rise, rtol=1e-5, atol=1e-5)


def test_circumstances_that_take_the_plain_path(monkeypatch):
    model, x = built("relu", torch.float32)
    assert closed_form(model, x) is not None
    assert closed_form(model, x[:0]) is None
    assert closed_form(model, x.double()) is None
    assert closed_form(model, x.bfloat16()) is None
    assert closed_form(model, x[:, None]) is None, "linear layers on more than rows"
    with torch.autocast("cpu"):
        assert closed_form(model, x) is None
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    try:
        assert closed_form(model, x) is None
    finally:
        handle.remove()
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda self, x: x)
        assert closed_form(model, x) is None
    monkeypatch.setattr(recognise, "LEAST_WORK", 10**6)
    assert closed_form(model, x) is None, "too little to do"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, return_indices=True),
        nn.BatchNorm2d(3),
        nn.Flatten(2),
        nn.ConvTranspose2d(3, 4, 3),
        nn.AvgPool2d(2),
    ],
    ids=str,
)
def test_other_options_take_the_plain_path(layer):
    model = nn.Sequential(layer, nn.Flatten()).eval()
    assert closed_form(model, torch.zeros(2, 3, 8, 8)) is None


def test_activations_of_ones_own_take_the_plain_path():
    own = Activation(
        name="relu",
        value=lambda x: 2 * RELU(x),
        slope=RELU.slope,
        lipschitz=2.0,
        curvature_above=0.0,
        curvature_below=0.0,
    )
    assert closed_form(TwoLayer(12, 2, 8, own), torch.zeros(2, 12)) is None
    assert closed_form(Dense(12, 2, 8, 1, own), torch.zeros(2, 12)) is None


def test_the_switch(monkeypatch):
    assert is_enabled()
    for text, on in (("0", False), ("off", False), ("False", False), ("1", True), ("", True)):
        monkeypatch.setenv("HOLDFAST_ACCELERATION", text)
        assert is_enabled() is on
    monkeypatch.setenv("HOLDFAST_ACCELERATION", "0")
    with enabled(True):
        assert is_enabled()
        with enabled(False):
            assert not is_enabled()
        assert is_enabled()
    assert not is_enabled()


@pytest.mark.parametrize("name", ["relu", "conv", "dense", "two-layer-softplus", "two-layer-5-relu"])
def test_attacks_are_as_strong_and_repeat_bit_for_bit(name):
    model, x = built(name, torch.float32)
    with torch.no_grad():
        outputs = model(x)
    y = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
    attack, threat = PGD(steps=10, restarts=2), LpBall("inf", 0.2)
    first, again = (attack.run(model, x, y, threat, seed=4) for _ in range(2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.loss, again.loss)
    with enabled(False):
        plain = attack.run(model, x, y, threat, seed=4)
    torch.testing.assert_close(first.loss, plain.loss, rtol=1e-3, atol=1e-3)
    # A verdict may differ only where it hangs on rounding.
    with torch.no_grad():
        hanging = [margin_gap(model(result.x), y) < 1e-3 for result in (first, plain)]
    assert bool(((first.success == plain.success) | hanging[0] | hanging[1]).all())
    clean = CrossEntropy()(outputs, y)
    assert (first.loss > clean).all(), "the attack did nothing"


def margin_gap(outputs, y):
    """How far the outputs are from a change of verdict."""
    if outputs.shape[1] == 1:
        return outputs[:, 0].abs()
    others = outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    return (others - outputs.gather(1, y[:, None])[:, 0]).abs()


SHAPES = [(1, 3, 2), (16, 256, 256), (64, 300, 200), (128, 784, 10)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_by_either_library(monkeypatch, shape, dtype, rng):
    rows, inputs, outputs = shape
    x = torch.randn(rows, inputs, generator=rng).to(dtype)
    weight = torch.randn(inputs, outputs, generator=rng).to(dtype).T  # as backward passes have it
    bias = torch.randn(outputs, generator=rng).to(dtype)
    exact = x.double() @ weight.double().T + bias.double()
    unit = torch.finfo(dtype).eps
    for faster in (False, True):
        monkeypatch.setattr(_products, "_onednn_is_faster", lambda: faster)  # noqa: B023
        made = _products.product(x, weight, bias)
        assert made.dtype == dtype
        assert (made - exact).abs().max() <= 10 * unit * math.sqrt(inputs) * exact.abs().max()


def test_a_library_that_rounds_more_is_not_used(monkeypatch, rng):
    def coarse(x, weight, bias):
        return nn.functional.linear(x.bfloat16(), weight.bfloat16()).to(x.dtype)

    def missing(x, weight, bias):
        raise AttributeError("no such operator")

    x, weight = (torch.randn(128, 128, generator=rng) for _ in range(2))
    monkeypatch.setattr(_products, "_onednn_is_faster", lambda: True)
    for bad in (coarse, missing):
        _products._is_accurate.cache_clear()
        monkeypatch.setattr(_products, "_onednn", bad)
        assert torch.equal(_products.product(x, weight), x @ weight.T)
    _products._is_accurate.cache_clear()


def test_a_lowered_precision_is_left_to_torch(monkeypatch, rng):
    """Who lowers the precision of torch's products gets torch's products."""
    x, weight = (torch.randn(128, 128, generator=rng) for _ in range(2))
    monkeypatch.setattr(_products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(_products, "_is_accurate", lambda *shape: True)
    monkeypatch.setattr(_products, "_onednn", lambda *operands: pytest.fail("oneDNN was called"))
    with pytest.raises(pytest.fail.Exception):
        _products.product(x, weight)
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        _products.product(x, weight)
    finally:
        setting.fp32_precision = before


# Distances as shares of the radius: well inside, inside but too near for the rough look, outside by little and by much.
@pytest.mark.parametrize("share", [0.0, 0.5, 1 - ROUGH / 2, 1 + 1e-4, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_projected_in_pieces(share, dtype, rng):
    model = nn.Module()
    model.long = nn.Parameter(torch.randn(PIECE + 17, 2, generator=rng, dtype=dtype))
    model.turned = nn.Parameter(torch.randn(30, 40, generator=rng, dtype=dtype).T)
    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    radius = 2.0
    way = {name: torch.randn(w.shape, generator=rng, dtype=torch.float64) for name, w in initial.items()}
    length = math.sqrt(sum(float(w.square().sum()) for w in way.values()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += share * radius / length * way[name]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ball = ParameterBall(names=(tuple(initial),), initial=initial, radius=radius)
    ball.project(model)
    [drift] = ball.distances(model)
    moves = [
        (parameter.detach().double() - initial[name].double()) for name, parameter in model.named_parameters()
    ]
    exact = math.sqrt(sum(float(move.square().sum()) for move in moves))
    assert float(drift) == pytest.approx(exact, rel=1e-12)
    assert exact <= radius
    for name, parameter in model.named_parameters():
        if share < 1:
            assert torch.equal(parameter, before[name])
        else:
            nearest = initial[name] + way[name] * radius / length
            assert (parameter - nearest).abs().max() <= (1e-10 if dtype == torch.float64 else 1e-5)


def test_outputs_alone_are_those_of_the_model() -> None:
    """What searches by queries use: the same numbers as the model's own forward pass, up to rounding."""
    model = MNISTConv().eval()
    x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(outputs(model, x), model(x), rtol=1e-4, atol=1e-5)
        with enabled(False):
            assert torch.equal(outputs(model, x), model(x))
    assert closed_form(model, x) is not None


def test_products_of_slices_are_those_of_copies(monkeypatch):
    """oneDNN takes far longer for slices, so it never sees one."""
    seen = []
    inner = _products._onednn

    def checked(x, weight, bias):
        seen.extend(matrix.is_contiguous() or matrix.T.is_contiguous() for matrix in (x, weight))
        return inner(x, weight, bias)

    x, weight = torch.randn(70, 300), torch.randn(200, 300)
    if not _products._is_accurate(128, 128, 200):
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr(_products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(_products, "_onednn", checked)
    cut = _products.product(x[:, 100:228], weight[:, 100:228])
    assert seen
    assert all(seen)
    assert torch.equal(cut, _products.product(x[:, 100:228].contiguous(), weight[:, 100:228].contiguous()))
