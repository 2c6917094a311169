"""The networks of the robustness literature: built from a seed, attacked, trained and verified like anybody's."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import holdfast as hf
from holdfast._imports import Trusted
from holdfast._registry import NETWORKS
from holdfast.config.build import build_network
from holdfast.config.reading import read_config
from holdfast.config.schema import NetworkConfig, from_dict, to_dict
from holdfast.errors import InputError
from holdfast.families.registry import rebuilt, stored
from holdfast.networks import CNN7, Normalize, PreActResNet, ViT, WideResNet

SIZE, CLASSES = 4, 3
SMALL = {
    "preact-resnet": lambda **more: PreActResNet(CLASSES, width=2, blocks=(1, 2), **more),
    "wide-resnet": lambda **more: WideResNet(CLASSES, depth=10, widen=1, **more),
    "cnn7": lambda **more: CNN7(CLASSES, size=SIZE, width=2, **more),
    "cnn7 without batch norm": lambda **more: CNN7(CLASSES, size=SIZE, width=2, batch_norm=False, **more),
    "vit": lambda **more: ViT(CLASSES, size=SIZE, patch=2, dim=4, depth=1, heads=2, **more),
}
SETTINGS = {
    "two-layer": {"width": 12},
    "dense": {"width": 12},
    "mnist-conv": {},
    "preact-resnet": {"width": 2, "blocks": [1, 1]},
    "wide-resnet": {"depth": 10, "widen": 1},
    "cnn7": {"width": 2},
    "vit": {"dim": 4, "depth": 1, "heads": 2, "patch": 2},
}


def images(count=12, channels=3):
    x = torch.rand(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return hf.data.from_tensors(
        x, torch.arange(count) % CLASSES, (0.0, 1.0), validation=0.2, test=0, name="noise"
    )


def state(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_fixes_the_weights_and_leaves_the_global_random_state(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = SMALL[name](seed=1), SMALL[name](seed=1), SMALL[name](seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state(first), state(again))
    assert not same(state(first), state(other))
    assert all(bool(value.isfinite().all()) for value in state(first).values())


@pytest.mark.parametrize(
    ("net", "weights"),
    [
        (lambda: PreActResNet(10), 11_172_170),  # as published: 11.17 million
        (lambda: WideResNet(10, depth=28), 36_479_194),  # WRN-28-10: 36.5 million
        (lambda: CNN7(10, batch_norm=False), 17_190_602),  # 17.2 million (Shi et al. 2021)
    ],
)
def test_the_defaults_are_the_published_networks(net, weights):
    assert sum(parameter.numel() for parameter in net().parameters()) == weights


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["preact-resnet", "wide-resnet", "cnn7", "vit"]),
    channels=st.integers(1, 4),
    size=st.integers(1, 9),
    classes=st.integers(2, 4),
    flat=st.booleans(),
)
def test_images_of_any_channels_and_size_give_an_output_a_class(name, channels, size, classes, flat):
    x = torch.rand(2, channels, size, size)
    made = {
        "preact-resnet": lambda: PreActResNet(classes, channels, 2, (1, 1)),
        "wide-resnet": lambda: WideResNet(classes, channels, 10, 1),
        "cnn7": lambda: CNN7(classes, channels, size, 1),
        "vit": lambda: ViT(classes, channels, size, size, 4, 1, 2),
    }
    net = made[name]().eval()
    out = net(x)
    assert out.shape == (2, 1 if classes == 2 else classes)
    if flat:
        torch.testing.assert_close(net(x.flatten(1)), out)


@pytest.mark.parametrize("name", SMALL)
def test_other_images_are_refused_by_shape(name):
    net = SMALL[name]()
    with pytest.raises(
        InputError, match=r"must be given images of shape \(3, .*got examples of shape \(2, 4, 4\)"
    ):
        net(torch.zeros(1, 2, SIZE, SIZE))
    with pytest.raises(InputError, match=r"got examples of shape \(7,\)"):
        net(torch.zeros(1, 7))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: WideResNet(10, depth=35), "depth must be 6 n \\+ 4 .* got 35; ask for 34"),
        (lambda: ViT(10, size=30), "patch must divide the images' height and width 30, got 4"),
        (lambda: ViT(10, dim=10, heads=4), "dim must be a multiple of heads = 4, got 10; ask for 8"),
        (lambda: PreActResNet(10, blocks=[1] * 9), "blocks must name at most 8 stages"),
        (lambda: CNN7(10, width=2**14, size=2**12), "a CNN7 must fit into the free memory"),
        (lambda: Normalize((0.5,), (0.5, 0.5)), "one number a channel each, got 1 and 2"),
        (lambda: Normalize((0.5,), (0.0,)), "std must be a sequence of at least 1, each a finite number > 0"),
        (lambda: Normalize((0.5,) * 3, (0.5,) * 3)(torch.zeros(1, 1, 2, 2)), "must be given 3 channels"),
    ],
)
def test_what_does_not_fit_is_one_sentence(made, said):
    with pytest.raises(InputError, match=said) as refused:
        made()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SMALL)
def test_an_evaluation_leaves_the_network_as_it_was(name, training):
    """Attacks and evaluations see batch norm as it stands, and move none of its statistics."""
    data, net = images(3), SMALL[name]().train(training)
    before = state(net)
    attacks = [hf.PGD(steps=2), hf.APGD(steps=3, targets=1, loss="margin"), hf.Square(queries=5)]
    found = hf.evaluate(net, data.x, data.y, "linf:0.01", attacks=attacks, verify=None)
    assert same(state(net), before)
    assert net.training is training
    assert 0 <= found.robust_accuracy <= 1
    if training:  # a single correct example, of which batch norm has no statistics
        y = (net.eval()(data.x).argmax(1) + torch.tensor([0, 1, 1])) % CLASSES
        hf.evaluate(net.train(), data.x, y, "linf:0.01", attacks="clean", verify=None)
        assert same(state(net), before)
    hf.PGD(steps=2).points(
        net,
        data.x,
        data.y,
        hf.LpBall("inf", 0.1),
        generator=torch.Generator().manual_seed(0),
        loss=hf.CrossEntropy(),
        mode="keep",
    )
    assert same(state(net), before)


@pytest.mark.parametrize("name", SMALL)
def test_an_epoch_of_training_moves_weights_and_statistics(name):
    data, net = images(), SMALL[name]()
    start = state(net)
    run = hf.train(
        net,
        data,
        hf.LpBall("inf", 0.01, bounds=data.bounds),
        attack=hf.PGD(steps=1),
        final_attack=hf.PGD(steps=1),
        epochs=1,
        batch_size=6,
        closing="none",
        optimizer="adam",
        certificate=hf.CertificateSettings(trace=False, tighten=0),
        progress=False,
    )
    end = run.weights("last")
    assert start.keys() == end.keys()
    kept = [key for key in start if torch.equal(start[key], end[key])]
    assert not kept, kept


@pytest.mark.parametrize("method", ["ibp", "crown"])
@pytest.mark.parametrize("name", [name for name in SMALL if name != "vit"])
def test_the_verifier_bounds_them(name, method):
    """No point of the ball that an attack finds is beyond what is proved, and a small ball is proved for some."""
    data, net = images(6), SMALL[name]().eval().double()
    x, ball = data.x.double(), hf.LpBall("inf", 1e-6)
    y = net(x).argmax(1)
    assert bool(hf.verify(net, x, y, ball, method=method).verified.any())
    wide = hf.LpBall("inf", 0.2)
    broken = hf.PGD(steps=5).run(net, x, y, wide).success
    assert not bool((hf.verify(net, x, y, wide, method=method).verified & broken).any())


def test_the_verifier_names_what_it_lacks_for_a_transformer():
    data = images(3)
    with pytest.raises(
        InputError, match=r"norm1 \(LayerNorm\) uses the operation 'native_layer_norm'"
    ) as refused:
        hf.verify(SMALL["vit"]().eval(), data.x, data.y, hf.LpBall("inf", 0.01), method="crown")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_can_say_which_network_it_was(name):
    net = SMALL[name](seed=3)
    again = rebuilt(**stored(net))
    again.load_state_dict(net.state_dict())
    x = images().x
    torch.testing.assert_close(again.eval()(x), net.eval()(x))


def test_normalisation_in_front_is_the_normalised_network_and_keeps_the_threats_units():
    data, net = images(4), SMALL["cnn7"]().eval()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    whole = nn.Sequential(Normalize(mean, std), net).eval()
    scaled = (data.x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(whole(data.x), net(scaled))
    points = hf.PGD(steps=3).run(whole, data.x, data.y, hf.LpBall("inf", 0.1, bounds=(0, 1))).x
    assert float((points - data.x).abs().max()) <= 0.1 + 1e-6
    assert bool(hf.verify(whole, data.x, whole(data.x).argmax(1), hf.LpBall("inf", 1e-6)).verified.any())
    assert copy.deepcopy(whole).state_dict().keys() == whole.state_dict().keys()


# By name, on the command line and in a file.


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_built_by_name_with_the_settings_of_its_class(name):
    config = from_dict({"network": {"name": name, **SETTINGS[name]}}).network
    data = images()
    net = build_network(config, data, seed=1).eval()
    assert net(data.x[:2]).shape == (2, CLASSES)
    for key, value in SETTINGS[name].items():
        assert getattr(net, key) == (tuple(value) if isinstance(value, list) else value)
    assert same(state(net), state(build_network(config, data, seed=1)))
    assert from_dict({"network": to_dict(config)}).network == config


def test_options_spell_the_settings():
    config, _ = read_config(["--network", "preact-resnet", "--width", "8", "--network.blocks", "1,1,2"])
    assert config.network == NetworkConfig.section("preact-resnet", width=8, blocks=(1, 1, 2))
    config, _ = read_config(["--network", "vit", "--network.depth", "2", "--network.heads", "4"])
    assert config.network == NetworkConfig.section("vit", depth=2, heads=4)
    with pytest.raises(InputError, match=r"network\.heads must be a whole number >= 1 .*got 0"):
        read_config(["--network", "vit", "--network.heads", "0"])
    with pytest.raises(InputError, match=r"network\.heads must go with network\.name vit, got it with cnn7"):
        read_config(["--network", "cnn7", "--network.heads", "2"])


def test_flat_grey_squares_are_images_and_other_rows_are_refused():
    digits = hf.data.digits(classes=(3, 8))
    net = build_network(NetworkConfig.section("preact-resnet", width=2), digits, seed=0).eval()
    assert net(digits.x[:2]).shape == (2, 1)
    rows = hf.data.from_tensors(torch.rand(6, 7), torch.arange(6) % 2)
    with pytest.raises(InputError, match=r"cnn7 needs square images, got examples of shape \(7,\)"):
        build_network(NetworkConfig.section("cnn7"), rows, seed=0)
    oblong = hf.data.from_tensors(torch.rand(6, 1, 4, 6), torch.arange(6) % 2)
    with pytest.raises(InputError, match="vit needs square images"):
        build_network(NetworkConfig.section("vit"), oblong, seed=0)
    wide = build_network(NetworkConfig.section("wide-resnet", depth=10, widen=1), oblong, seed=0).eval()
    assert wide(oblong.x).shape == (6, 1)


def from_a_library(*, num_classes=1000, weights=None, **kwargs):
    """A function with the signature that torchvision's and timm's have."""
    assert weights is None
    return nn.Sequential(nn.Flatten(), nn.Linear(kwargs.pop("features_in", 48), num_classes))


def test_a_function_of_torchvision_or_timm_takes_its_arguments_by_import_path(tmp_path):
    config, _ = read_config(
        ["--network", f"{__name__}:from_a_library", "--network.init-args.num_classes", "3"]
    )
    assert isinstance(config.network.name, Trusted)
    assert config.network.init_args == {"num_classes": 3}
    assert build_network(config.network, images(), seed=0)(images().x).shape == (12, 3)
    file = tmp_path / "run.yaml"
    file.write_text(f"network: {{name: '{__name__}:from_a_library', init_args: {{num_classes: 5}}}}")
    config, _ = read_config([str(file)], trusted=True)
    assert build_network(config.network, images(), seed=0)(images().x).shape == (12, 5)
