"""Augmentation of the examples of a step: what it draws, and what it means for a run."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast._imports import Trusted
from holdfast.config.build import build
from holdfast.config.schema import from_dict
from holdfast.errors import InputError
from holdfast.training.augmentation import as_augmentation

SIDE = 6


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=12, seed=0):
    return 0.05 + 0.9 * torch.rand(n, 2, SIDE, SIDE, generator=draw(seed))


def data():
    return hf.data.from_tensors(images(30), torch.arange(30) % 3, bounds=(0.0, 1.0))


def conv():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * SIDE**2, 3)
    )


def trained(**settings):
    usual = {"epochs": 2, "batch_size": 6, "optimizer": "adam", "learning_rate": 0.01, "progress": False}
    model = conv()
    usual |= {"closing": "none", "allow_incompatible": True, "certificate": hf.CertificateSettings(tighten=0)}
    return hf.train(model, data(), "linf:0.02", **usual | settings)


def crops(image, shift):
    """Every crop of an image padded by ``shift``, and its mirror image, one by one."""
    padded = torch.zeros(2, SIDE + 2 * shift, SIDE + 2 * shift)
    padded[:, shift : shift + SIDE, shift : shift + SIDE] = image
    for i in range(2 * shift + 1):
        for j in range(2 * shift + 1):
            crop = padded[:, i : i + SIDE, j : j + SIDE]
            yield crop
            yield crop.flip(2)


@pytest.mark.parametrize("shift", [0, 2])
def test_a_shifted_image_is_a_crop_of_the_padded_one(shift):
    x = images(40)
    found = hf.ImageAugmentation(shift=shift)(x, draw())
    for image, new in zip(x, found, strict=True):
        assert any(torch.equal(new, crop) for crop in crops(image, shift))
    assert (found != x).flatten(1).any(1).sum() >= 10  # half are mirrored, and nearly all are shifted


def test_images_stay_upright_where_flip_is_off():
    x = images(40)
    assert torch.equal(hf.ImageAugmentation(shift=0, flip=False)(x, draw()), x)
    found = hf.ImageAugmentation(shift=1, flip=False)(x, draw())
    for image, new in zip(x, found, strict=True):
        assert any(torch.equal(new, crop) for crop in list(crops(image, 1))[::2])


def test_every_shift_and_both_orientations_come_up_alike():
    x = images(1).repeat(4000, 1, 1, 1)
    found = hf.ImageAugmentation(shift=1)(x, draw())
    counts = [int((found == crop).flatten(1).all(1).sum()) for crop in crops(x[0], 1)]
    assert sum(counts) == 4000
    assert min(counts) > 4000 / 18 * 0.75  # about four standard deviations


def test_cutout_blanks_one_square_that_may_reach_over_the_edge():
    x = images(200)
    found = hf.ImageAugmentation(shift=0, flip=False, cutout=3, fill=0.01)(x, draw())
    blank = (found == 0.01).all(1)
    assert torch.equal(found[~blank[:, None].expand_as(found)], x[~blank[:, None].expand_as(x)])
    rows, columns = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.flatten(1).sum(1), rows * columns)  # a rectangle
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3}  # cut by at most one at an edge


def test_the_generator_alone_decides_what_is_drawn():
    x, augmentation = images(), hf.ImageAugmentation(shift=2, cutout=2)
    torch.manual_seed(0)
    first = augmentation(x, draw(3))
    torch.manual_seed(1)
    assert torch.equal(first, augmentation(x, draw(3)))
    assert not torch.equal(first, augmentation(x, draw(4)))


def test_a_run_with_augmentation_repeats_and_is_certified_by_its_pass_alone():
    first, second = (trained(augmentation="images") for _ in range(2))
    plain = trained(certificate=hf.CertificateSettings(trace=False, tighten=0))
    weights, others, same = first.weights(), plain.weights(), second.weights()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert any(not torch.equal(weights[name], others[name]) for name in weights)
    assert first.summary["augmentation"] == "images"
    assert all(row["lower_bound"] is None for row in first.metrics)
    # at the clean examples, whatever training saw
    assert first.certificate.surrogate_loss > 0


def test_a_resumed_run_draws_on(tmp_path):
    settings = {"augmentation": hf.ImageAugmentation(shift=1), "recipe": "pgd"}
    whole = trained(epochs=3, **settings)
    trained(epochs=1, out=tmp_path / "run", **settings)
    parts = trained(epochs=3, out=tmp_path / "run", resume=True, **settings)
    for name, weight in whole.weights().items():
        assert torch.equal(weight, parts.weights()[name])
    with pytest.raises(InputError, match="augmentation was ImageAugmentation"):
        trained(epochs=3, out=tmp_path / "run", resume=True, recipe="pgd")
    assert "augmented examples" in (tmp_path / "run" / "log.txt").read_text()


def brighter(x, generator):
    return x * torch.rand(len(x), 1, 1, 1, generator=generator)


def test_a_function_of_ones_own_is_an_augmentation():
    run = trained(augmentation=brighter)
    assert run.summary["augmentation"] == "brighter"
    assert as_augmentation(brighter)(images(), draw()).max() < 1


class Stateful:
    """Darker at each call."""

    share = 1.0

    def __call__(self, x, generator):
        self.share *= 0.9
        return self.share * x


def test_torchs_own_generator_will_do():
    assert trained(augmentation=lambda x, generator: x * torch.rand(1)).summary["augmentation"] == "<lambda>"


@pytest.mark.parametrize(
    ("augmentation", "says"),
    [
        (lambda x, generator: x[:1], "must return a tensor like the batch it is given"),
        (lambda x, generator: x.double(), "must return a tensor like the batch it is given"),
        (lambda x, generator: 2 + x, "must return examples like those of the data"),
        (lambda x, generator: x * float("nan"), "must return examples like those of the data"),
        ("image", "did you mean 'images'"),
        (hf.ImageAugmentation, "write ImageAugmentation"),
        (hf.ImageAugmentation(fill=-1.0), "must return examples like those of the data"),
        (lambda x: x, r"must be a function \(x, generator\) that runs on a batch"),
        (lambda x, generator: x / (1 // 0), "ZeroDivisionError"),
        (Stateful(), "different examples for one seed"),
        (3, "must be an augmentation"),
    ],
)
def test_what_is_no_augmentation_of_these_data_is_refused_before_training(augmentation, says):
    with pytest.raises(InputError, match=says):
        trained(augmentation=augmentation)


def test_data_without_the_shape_of_images_are_refused():
    flat = hf.data.from_tensors(torch.rand(30, 8), torch.arange(30) % 3, bounds=(0.0, 1.0))
    net = hf.networks.TwoLayer(8, 3, width=6)
    with pytest.raises(InputError, match=r"shape \(channels, height, width\), got \(8,\)"):
        hf.train(
            net, flat, "linf:0.01", augmentation="images", epochs=1, allow_incompatible=True, progress=False
        )


def test_the_configuration_names_it():
    config = from_dict({"augmentation": {"name": "images", "shift": 2, "flip": False}})
    assert build(config).options["augmentation"] == hf.ImageAugmentation(shift=2, flip=False)
    own = from_dict({"augmentation": {"name": Trusted(f"{__name__}:brighter")}})
    assert build(own).options["augmentation"].name == "brighter"
    with pytest.raises(InputError, match="must go with"):
        from_dict({"augmentation": {"name": "none", "shift": 2}})
