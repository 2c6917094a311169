"""Data sets: what loaders return, what they refuse, and that splits are stratified functions of the seed."""

import gzip
import struct

import numpy as np
import pytest
import torch

from holdfast import data as hd
from holdfast.data import Split, digits, from_tensors, idx, load, npz, on_sphere, spheres, split_rows
from holdfast.errors import InputError

RANDOM = np.random.default_rng(0)


def write_idx(folder, part, images, labels, end=".gz", joint="-"):
    for stem, values, axes in ((f"{part}-images", images, 3), (f"{part}-labels", labels, 1)):
        content = struct.pack(f">{1 + axes}I", 2048 + axes, *values.shape) + values.astype(np.uint8).tobytes()
        path = folder / f"{stem}{joint}idx{axes}-ubyte{end}"
        path.write_bytes(gzip.compress(content) if end else content)


@pytest.fixture
def mnist_like(tmp_path):
    """60 training and 20 test images of 4 x 3 pixels, five classes."""
    parts = {
        "train": (RANDOM.integers(0, 256, (60, 4, 3)), np.arange(60) % 5),
        "t10k": (RANDOM.integers(0, 256, (20, 4, 3)), np.arange(20) % 5),
    }
    for part, (images, labels) in parts.items():
        write_idx(tmp_path, part, images, labels)
    return tmp_path, parts


# --- digits, features -------------------------------------------------------------------------------------------


def test_digits_are_pixels_in_the_unit_box():
    data = digits()
    assert (data.x.shape, data.classes, data.bounds) == ((1797, 64), 10, (0.0, 1.0))
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert torch.equal(data.x * 16, (data.x * 16).round())
    assert torch.bincount(data.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_reference_setting_has_357_unit_vectors_with_a_held_constant():
    data = digits((3, 8), "sphere", validation=0.0, test=0.0, dtype=torch.float64)
    assert (data.x.shape, data.classes, data.class_names) == ((357, 65), 2, ("3", "8"))
    assert torch.bincount(data.y).tolist() == [183, 174]
    assert (len(data.train), len(data.validation), len(data.test)) == (357, 0, 0)
    assert torch.allclose(data.x.norm(dim=1), torch.ones(357, dtype=torch.float64), atol=1e-14)
    assert torch.equal(data.x[:, 64], torch.full((357,), 0.5, dtype=torch.float64))
    assert data.fixed.tolist() == [False] * 64 + [True]
    assert data.bounds is None
    pixels = digits((3, 8), validation=0.0, test=0.0, dtype=torch.float64).x
    cosine = (pixels * data.x[:, :64]).sum(1) / pixels.norm(dim=1) / data.x[:, :64].norm(dim=1)
    assert torch.allclose(cosine, torch.ones_like(cosine))


def test_centred_sphere_subtracts_the_mean_of_training_rows_only():
    plain = digits((1, 7), seed=3, dtype=torch.float64)
    moved = plain.x - plain.train.x.mean(0)
    expected = moved / moved.norm(dim=1, keepdim=True) * 2.0
    found = on_sphere(plain, norm=2.0, constant=-1.0, center=True)
    assert torch.allclose(found.x[:, :-1], expected)
    assert (found.x[:, -1] == -1.0).all()


def test_features_held_before_stay_held_on_the_sphere():
    data = from_tensors(
        torch.eye(4).reshape(4, 2, 2) + 1, torch.tensor([0, 1, 0, 1]), fixed=np.eye(2, dtype=bool)
    )
    assert on_sphere(data).fixed.tolist() == [True, False, False, True, True]


def test_an_example_of_zero_norm_has_no_place_on_the_sphere():
    data = from_tensors(
        torch.tensor([[1.0], [0.0], [2.0]]), torch.tensor([0, 1, 0]), validation=0.0, test=0.0
    )
    with pytest.raises(InputError, match="got 1, the first being row 1"):
        on_sphere(data)


def test_class_order_decides_the_new_labels():
    one, other = digits((3, 8), validation=0.0, test=0.0), digits((8, 3), validation=0.0, test=0.0)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, 1 - other.y)


# --- split ------------------------------------------------------------------------------------------------------


def test_split_is_a_partition_stratified_and_decided_by_the_seed():
    y = torch.tensor([0] * 100 + [1] * 40 + [2] * 2)[
        torch.randperm(142, generator=torch.Generator().manual_seed(1))
    ]
    split = split_rows(y, validation=0.1, test=0.25, seed=5)
    rows = torch.cat([split.train, split.validation, split.test])
    assert rows.sort().values.tolist() == list(range(142))
    assert torch.bincount(y[split.test], minlength=3).tolist()[:2] == [25, 10]
    assert torch.bincount(y[split.validation], minlength=3).tolist()[:2] == [10, 4]
    assert (torch.bincount(y[split.train], minlength=3) > 0).all()
    again, other = (
        split_rows(y, validation=0.1, test=0.25, seed=5),
        split_rows(y, validation=0.1, test=0.25, seed=6),
    )
    assert torch.equal(split.test, again.test)
    assert not torch.equal(split.test, other.test)


def test_keeping_classes_keeps_each_rows_part():
    x = torch.arange(60.0)[:, None]
    y = torch.arange(60) % 3
    whole, some = from_tensors(x, y, seed=2), from_tensors(x, y, seed=2, classes=(2, 0))
    for part in ("train", "validation", "test"):
        before, after = getattr(whole, part), getattr(some, part)
        assert after.x.flatten().tolist() == before.x[before.y != 1].flatten().tolist()
    assert torch.equal(some.y, torch.where(some.x[:, 0] % 3 == 2, 0, 1))


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.0)])
def test_shares_that_leave_nothing_are_refused(validation, test):
    with pytest.raises(InputError, match="must be"):
        split_rows(torch.tensor([0, 1]), validation=validation, test=test)


# --- tensors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_torch_give_the_same_data(dtype):
    x, y = RANDOM.uniform(size=(30, 2, 3)), np.arange(30) % 3
    one = from_tensors(x, y, (0.0, 1.0), dtype=dtype)
    other = from_tensors(
        torch.tensor(x), torch.tensor(y).int(), (np.zeros((2, 3)), np.ones((2, 3))), dtype=dtype
    )
    assert one.x.dtype == dtype
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, other.y)
    assert one.bounds == (0.0, 1.0)
    assert torch.equal(other.bounds[1], torch.ones(2, 3, dtype=torch.float64))


def test_casting_never_leaves_the_box():
    x = torch.tensor([[0.1], [0.0], [-0.1]], dtype=torch.float64)
    for given in (x, x.float()):
        data = from_tensors(given, torch.tensor([0, 1, 0]), (-0.1, 0.1))
        assert float(torch.tensor(0.1)) > 0.1, "otherwise this tests nothing"
        assert data.x.double().abs().max() <= 0.1
        assert torch.allclose(data.x, given.float())


GOOD_X, GOOD_Y = (
    torch.rand(6, 2, generator=torch.Generator().manual_seed(0)),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)
WITH_NAN = GOOD_X.clone()
WITH_NAN[2:4, 1] = torch.nan


@pytest.mark.parametrize(
    ("x", "y", "options", "words"),
    [
        (WITH_NAN, GOOD_Y, {}, "NaN or infinity in 2 of 6 rows, the first being row 2"),
        ((GOOD_X * 255).to(torch.uint8), GOOD_Y, {}, r"x\.float\(\) / 255"),
        (GOOD_X[:5], GOOD_Y, {}, "got 5 rows and 6 labels"),
        (GOOD_X[:, 0], GOOD_Y, {}, "at least one of each"),
        (GOOD_X, GOOD_Y.double(), {}, "integer labels"),
        (GOOD_X, GOOD_Y[:, None], {}, "one label per example"),
        (GOOD_X, GOOD_Y - 1, {}, r"labels 0\.\.1, got \[-1\]"),
        (GOOD_X, GOOD_Y, {"class_names": ("a", "b")}, r"labels 0\.\.1, got \[2\]"),
        (GOOD_X, GOOD_Y * 2, {}, r"got none of \[1, 3\]"),
        (GOOD_X, GOOD_Y * 0, {}, "at least 2 classes"),
        (GOOD_X, GOOD_Y, {"classes": (0, 7)}, "classes must be different labels"),
        (GOOD_X, GOOD_Y, {"classes": (1, 1)}, "classes must be different labels"),
        (GOOD_X, GOOD_Y, {"classes": (1,)}, "at least 2 classes"),
        (GOOD_X + 1, GOOD_Y, {"bounds": (0.0, 1.0)}, "12 of 12 values outside"),
        (GOOD_X, GOOD_Y, {"bounds": (1.0, 0.0)}, "low <= high"),
        (GOOD_X, GOOD_Y, {"bounds": (torch.zeros(3), torch.ones(3))}, "shape of one example"),
        (GOOD_X, GOOD_Y, {"fixed": torch.zeros(3, dtype=torch.bool)}, "true or false for each feature"),
        (GOOD_X, GOOD_Y, {"dtype": torch.float16}, "float32 or torch.float64"),
        (
            GOOD_X,
            GOOD_Y,
            {
                "split": Split(
                    train=torch.tensor([0, 6]), validation=torch.tensor([1]), test=torch.tensor([2])
                )
            },
            "repeated or foreign row",
        ),
    ],
)
def test_bad_tensors_are_refused_in_one_sentence(x, y, options, words):
    with pytest.raises(InputError, match=words) as caught:
        from_tensors(x, y, **options)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "the remedy follows a semicolon"


# --- idx --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "joint"), [(".gz", "-"), ("", "-"), ("", ".")])
def test_idx_folder_round_trip(tmp_path, end, joint):
    images, labels = RANDOM.integers(0, 256, (24, 4, 3)), np.arange(24) % 3
    write_idx(tmp_path, "train", images, labels, end, joint)
    write_idx(tmp_path, "t10k", images[::-1][:6], labels[::-1][:6], end, joint)
    data = idx(tmp_path, validation=0.25)
    assert (data.shape, data.classes, data.bounds) == ((1, 4, 3), 3, (0.0, 1.0))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 6, 6)
    assert torch.equal((data.x[:24, 0] * 255).round().long(), torch.tensor(images))
    assert torch.equal((data.test.x[:, 0] * 255).round().long(), torch.tensor(images[::-1][:6].copy()))
    assert torch.equal(data.test.y, torch.tensor(labels[::-1][:6].copy()))
    assert idx(tmp_path, flatten=True).shape == (12,)


def test_idx_without_validation_or_test_trains_on_every_image(mnist_like):
    folder, parts = mnist_like
    data = idx(folder, validation=0.0, test=0.0, classes=(4, 1))
    rows = np.isin(parts["train"][1], (1, 4))
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 0, 0)
    assert torch.equal((data.train.x[:, 0] * 255).round().long(), torch.tensor(parts["train"][0][rows]))
    assert data.class_names == ("4", "1")


def edit(path, change):
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("train-images-idx3-ubyte.gz", lambda b: b[:-5], "must hold 720 values"),
        ("train-images-idx3-ubyte.gz", lambda b: b + b"x", "must hold 720 values"),
        ("train-images-idx3-ubyte.gz", lambda b: b[:10], "magic number 2051"),
        ("t10k-images-idx3-ubyte.gz", lambda b: b"\0\0\x08\x01" + b[4:], "magic number 2051"),
        ("t10k-labels-idx1-ubyte.gz", lambda b: b"", "magic number 2049"),
        ("train-labels-idx1-ubyte.gz", lambda b: struct.pack(">II", 2049, 59) + b[8:-1], "59 labels for 60"),
    ],
)
def test_broken_idx_files_are_named(mnist_like, file, change, words):
    folder, _ = mnist_like
    edit(folder / file, change)
    with pytest.raises(InputError, match=words) as caught:
        idx(folder)
    assert file.split("-idx")[0] in str(caught.value)


def test_unreadable_and_missing_idx_files_are_named(mnist_like):
    folder, _ = mnist_like
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz.* cannot be read"):
        idx(folder)
    images.unlink()
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        idx(folder)
    with pytest.raises(InputError, match="no folder"):
        idx(folder / "nowhere")
    with pytest.raises(InputError, match="test must be None"):
        idx(folder, test=0.2)


# --- npz --------------------------------------------------------------------------------------------------------


def test_npz_turns_byte_images_to_channels_first(tmp_path):
    images, labels = RANDOM.integers(0, 256, (20, 4, 5, 3)).astype(np.uint8), np.arange(20) % 2
    file = tmp_path / "small.npz"
    names = np.array(["cat", "dog"])
    np.savez(
        file,
        train_images=images,
        train_labels=labels,
        test_images=images[:4],
        test_labels=labels[:4],
        class_names=names,
    )
    data = npz(file, validation=0.2)
    assert (data.name, data.shape, data.bounds, data.class_names) == (
        "small",
        (3, 4, 5),
        (0.0, 1.0),
        ("cat", "dog"),
    )
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 4)
    assert torch.equal(
        (data.test.x * 255).round().long().permute(0, 2, 3, 1), torch.tensor(images[:4]).long()
    )
    assert len(npz(file, test=0.0).y) == 20


def test_npz_of_plain_arrays_is_split(tmp_path):
    file = tmp_path / "plain.npz"
    x = RANDOM.normal(size=(40, 3))
    np.savez(file, x=x, y=np.arange(40) % 2)
    data = npz(file, validation=0.1, test=0.2, dtype=torch.float64)
    assert (len(data.train), len(data.validation), len(data.test), data.bounds) == (28, 4, 8, None)
    assert torch.equal(data.x, torch.tensor(x))


def test_bad_npz_files_are_named(tmp_path):
    file = tmp_path / "bad.npz"
    np.savez(file, a=np.zeros(3))
    with pytest.raises(InputError, match=r"bad\.npz.*got a; rename"):
        npz(file)
    np.savez(file, x=np.array([{}], dtype=object), y=np.zeros(1, int))
    with pytest.raises(InputError, match=r"bad\.npz.*cannot be read"):
        npz(file)
    file.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match=r"bad\.npz.*cannot be read"):
        npz(file)
    np.savez(file, x=np.zeros((2, 2)), y=np.array(["a", "b"]))
    with pytest.raises(InputError, match="integer labels"):
        npz(file)
    one = np.zeros((2, 2))
    np.savez(file, x_train=one, y_train=np.arange(2), x_test=one[:, :1], y_test=np.arange(2))
    with pytest.raises(InputError, match="must be like x_train"):
        npz(file)
    with pytest.raises(InputError, match="cannot be read"):
        npz(tmp_path / "absent.npz")


# --- spheres, names ---------------------------------------------------------------------------------------------


def test_spheres_are_decided_by_the_seed():
    assert torch.equal(spheres(60, seed=1).x, spheres(60, seed=1).x)
    assert not torch.equal(spheres(60, seed=1).x, spheres(60, seed=2).x)


def test_spheres_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="leave room for 40 clusters"):
        spheres(400, 2, classes=20, clusters=2, separation=1.0)
    with pytest.raises(InputError, match="dimension must be a whole number >= 2"):
        spheres(400, 1)
    with pytest.raises(InputError, match="separation must be a number > 0 and < 2"):
        spheres(separation=3.0)


def test_load_finds_each_kind(mnist_like, tmp_path):
    assert load("digits", classes=(0, 1), features="sphere").features == 65
    assert load("spheres", dimension=4).shape == (4,)
    assert load(mnist_like[0]).shape == (1, 4, 3)
    file = tmp_path / "small.npz"
    np.savez(file, x=np.eye(4), y=np.arange(4) % 2)
    assert load(str(file)).name == "small"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("Sphere", {}, "did you mean 'spheres'"),
        (
            "cifar",
            {},
            "digits, spheres, forced, shattering, separated, a folder with IDX, CIFAR or image files, or an .npz file, got 'cifar'",
        ),
        ("digits", {"class": (1,)}, "did you mean 'classes'"),
        ("digits", {"features": "globe"}, "features must be one of"),
    ],
)
def test_load_refuses_with_a_suggestion(name, options, words):
    with pytest.raises(InputError, match=words):
        load(name, **options)


def test_load_refuses_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="must hold train-images"):
        load(tmp_path)


def test_public_names_are_documented():
    for name in ("digits", "idx", "npz", "from_tensors", "spheres", "load", "separation", "on_sphere"):
        assert getattr(hd, name).__doc__


def test_npz_carries_its_box_and_refuses_text(tmp_path):
    file = tmp_path / "box.npz"
    x = np.random.default_rng(0).random((40, 3))
    np.savez(file, x=x, y=np.arange(40) % 2, low=np.zeros(3), high=np.ones(3))
    low, high = npz(file).bounds
    assert torch.equal(low, torch.zeros(3))
    assert torch.equal(high, torch.ones(3))
    np.savez(file, x=3 * x, y=np.arange(40) % 2, low=np.zeros(3), high=np.ones(3))
    with pytest.raises(InputError, match="outside"):
        npz(file)
    np.savez(file, x=x.astype(str), y=np.arange(40) % 2)
    with pytest.raises(InputError, match="floating-point numbers or bytes"):
        npz(file)
    file.write_text("no archive")
    with pytest.raises(InputError, match="no archive of plain arrays"):
        npz(file)
