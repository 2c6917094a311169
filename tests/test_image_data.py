"""Images from outside: CIFAR's binary files, folders of pictures, and the data sets of torch."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import holdfast as hf
from holdfast.cli.main import main
from holdfast.data import cifar, from_dataset, image_folder, load
from holdfast.errors import InputError

RANDOM = np.random.default_rng(0)


def batch(labels, before=()):
    """Bytes of a CIFAR file and its pixels."""
    pixels = RANDOM.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    heads = np.array([(*before, label) for label in labels], dtype=np.uint8)
    return np.concatenate([heads, pixels], 1).tobytes(), pixels.reshape(-1, 3, 32, 32)


@pytest.fixture
def ten(tmp_path):
    """A CIFAR-10 of two batches with two images a class each."""
    parts = []
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        content, pixels = batch([*range(10), *range(10)])
        (tmp_path / name).write_bytes(content)
        parts.append(pixels)
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"name{k}" for k in range(10)) + "\n\n")
    return tmp_path, parts


def pixels_of(x):
    return (x * 255).round().long()


def test_cifar_10_is_read_as_it_lies(ten):
    folder, parts = ten
    data = load(folder, validation=0.25)
    assert (data.shape, data.classes, data.bounds) == ((3, 32, 32), 10, (0.0, 1.0))
    assert data.class_names == tuple(f"name{k}" for k in range(10))
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert torch.equal(pixels_of(data.test.x), torch.tensor(parts[2]).long())
    assert torch.equal(pixels_of(data.x[20:40]), torch.tensor(parts[1]).long())
    assert data.test.y.tolist() == [*range(10), *range(10)]
    two = load(folder, classes=(7, 2), test=0)
    assert (two.class_names, len(two.test)) == (("name7", "name2"), 0)


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar_100_has_fine_and_coarse_labels(tmp_path, coarse):
    for name in ("train.bin", "test.bin"):
        rows = [(fine % 20, fine) for fine in range(100)] * 2
        pixels = RANDOM.integers(0, 256, (len(rows), 3072), dtype=np.uint8)
        (tmp_path / name).write_bytes(np.concatenate([np.array(rows, dtype=np.uint8), pixels], 1).tobytes())
    (tmp_path / "coarse_label_names.txt").write_text("\n".join(f"c{k}" for k in range(20)))
    data = cifar(tmp_path, coarse=coarse)
    fine = torch.arange(100).repeat(2)
    assert torch.equal(data.test.y, fine % 20 if coarse else fine)
    assert data.class_names[3] == ("c3" if coarse else "3")  # no file of fine names here


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: (f / "data_batch_2.bin").write_bytes(b"x" * 100),
            r"data_batch_2\.bin' must hold images of 3073",
        ),
        (lambda f: (f / "test_batch.bin").unlink(), r"test_batch\.bin' cannot be read"),
        (lambda f: (f / "test_batch.bin").write_bytes(bytes([10] * 3073)), r"must lie in 0\.\.9, got 10"),
        (lambda f: (f / "data_batch_1.bin").unlink(), "must hold train-images-idx3-ubyte"),
    ],
)
def test_a_broken_cifar_folder_is_one_sentence(ten, spoil, said):
    spoil(ten[0])
    with pytest.raises(InputError, match=said) as refused:
        load(ten[0])
    assert "\n" not in str(refused.value)


def test_cifar_options_that_do_not_fit_are_refused(ten):
    with pytest.raises(InputError, match="coarse must go with CIFAR-100"):
        load(ten[0], coarse=True)
    with pytest.raises(InputError, match="test must be 0, or left out"):
        load(ten[0], test=0.5)
    with pytest.raises(InputError, match="did you mean 'coarse'"):
        load(ten[0], corse=True)


def pictures(folder, count=4, size=(5, 4), names=("cat", "dog"), end="png"):
    """Random pictures in a folder a class; what was written."""
    written = {}
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = RANDOM.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{end}")
            written[name, number] = pixels
    return written


def test_a_folder_of_pictures_is_a_data_set_with_names(tmp_path):
    written = pictures(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    data = load(tmp_path, validation=0.25, test=0.25)
    assert (data.shape, data.class_names, data.bounds) == ((3, 4, 5), ("cat", "dog"), (0.0, 1.0))
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)
    expected = np.stack([written[name, number] for name in ("cat", "dog") for number in range(4)])
    assert torch.equal(pixels_of(data.x).permute(0, 2, 3, 1), torch.tensor(expected).long())
    assert data.y.tolist() == [0] * 4 + [1] * 4
    assert image_folder(tmp_path, grey=True, size=8).shape == (1, 8, 8)


def test_folders_of_train_and_test_are_the_parts(tmp_path):
    pictures(tmp_path / "train")
    written = pictures(tmp_path / "test", count=2)
    data = load(tmp_path, validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    first = torch.tensor(written["cat", 0]).long()
    assert torch.equal(pixels_of(data.test.x[0]).permute(1, 2, 0), first)
    assert len(load(tmp_path, test=0).y) == 8
    with pytest.raises(InputError, match=r"has a folder test, got 0\.2"):
        load(tmp_path, test=0.2)
    pictures(tmp_path / "test", names=("wolf",), count=1)
    with pytest.raises(InputError, match="must have the classes of train, got 'wolf'"):
        load(tmp_path)


def test_what_is_wrong_with_a_picture_is_said_with_its_path(tmp_path):
    pictures(tmp_path, end="jpg")
    broken = tmp_path / "dog" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"dog/2\.jpg' must be an image, but cannot be read"):
        load(tmp_path)
    Image.new("RGB", (9, 9)).save(broken)
    with pytest.raises(InputError, match=r"got 9 x 9 pixels in .*dog/2\.jpg' against 5 x 4 .*give a size"):
        load(tmp_path)
    assert load(tmp_path, size=6).shape == (3, 6, 6)
    with pytest.raises(InputError, match="at least two folders of images"):
        image_folder(tmp_path / "dog")


def test_pictures_without_pillow_say_what_to_install(tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        InputError, match=r"needs Pillow, which is not installed; pip install 'holdfast\[images\]'"
    ):
        load(tmp_path)


# torch.utils.data

X, Y = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


class Rows(list):
    """A map-style data set of whatever is in it."""


def test_the_data_sets_of_torch_are_read_in_order():
    data = from_dataset(TensorDataset(X, Y), TensorDataset(X[:6], Y[:6]), validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 6)
    assert torch.equal(data.x[:20], X)
    assert torch.equal(data.test.y, Y[:6])
    own = from_dataset(TensorDataset(X, Y), validation=TensorDataset(X[:4], Y[:4]), classes=(1, 0))
    assert (len(own.train), len(own.validation), len(own.test)) == (20, 4, 0)
    assert torch.equal(own.validation.y, 1 - Y[:4])
    assert torch.equal(own.validation.x, X[:4])


def test_rows_with_columns_and_bytes_are_understood():
    rows = Rows(
        {"picture": (x * 255).to(torch.uint8).numpy(), "label": int(y)} for x, y in zip(X, Y, strict=True)
    )
    data = from_dataset(rows, columns=("picture", "label"), validation=0, class_names=("no", "yes"))
    assert data.class_names == ("no", "yes")
    assert float((data.x - X).abs().max()) < 1 / 255
    assert torch.equal(data.y, Y)


@pytest.mark.parametrize(
    ("items", "options", "said"),
    [
        (Rows([(X[0], 0), X[1]]), {}, None),
        (Rows([(X[0], 0), 5]), {}, "item 1 of train must hold an example and its label at 0, 1, got int"),
        (
            Rows([{"picture": X[0], "label": 0}]),
            {},
            "got columns picture, label; say where they are with columns=",
        ),
        (Rows([(X[0], 0), (X[1],)]), {}, "item 1 of train must hold an example and its label"),
        (Rows([(X[0], 0), (X[1], None)]), {}, "the label of item 1 of train must be"),
        (Rows([(X[0], 0), (X[1], 0.5)]), {}, "the label of item 1 of train must be one whole number"),
        (Rows([(X[0], 0), (X[1, :, :2], 1)]), {}, r"got \(1, 2, 4\) at index 1 against \(1, 4, 4\)"),
        (Rows([(X[0], 0), (X[1].long(), 1)]), {}, "the example of item 1 of train must hold floating-point"),
        (
            Rows([(X[0], 0), (Image.new("I", (4, 4)), 1)]),
            {},
            "item 1 of train must be an image of bytes, got mode I",
        ),
        (Rows(), {}, "train must have at least one item"),
        (Rows([(X[0] + 2, 0), (X[1], 1)]), {}, "x must lie in bounds"),
        (TensorDataset(X, Y), {"test": TensorDataset(X[..., :2], Y)}, "must have examples of one shape"),
        (
            DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler(range(3))),
            {},
            r"with a sampler of its own, .*; give torch\.utils\.data\.Subset\(dataset, indices\)",
        ),
        (
            DataLoader(TensorDataset(X, Y), collate_fn=len),
            {},
            r"with a collate function of its own, .*; give loader\.dataset",
        ),
    ],
)
def test_what_is_wrong_with_an_item_is_said_with_its_index(items, options, said):
    if said is None:
        said = "label of item 1 of train|item 1 of train must hold an example"
    with pytest.raises(InputError, match=said) as refused:
        from_dataset(items, **options)
    assert "\n" not in str(refused.value)


def test_an_item_that_cannot_be_read_is_named():
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("cut short")
            return super().__getitem__(index)

    with pytest.raises(InputError, match=r"item 3 of train must be readable, .*\(OSError: cut short\)"):
        from_dataset(Broken(X, Y))


@pytest.mark.parametrize(
    "data", [TensorDataset(X, Y), DataLoader(TensorDataset(X, Y))], ids=["set", "loader"]
)
def test_training_says_what_to_do_with_the_data_of_torch(data):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with pytest.raises(
        InputError, match=r"data must be a holdfast Dataset, .*holdfast\.data\.from_dataset\("
    ) as refused:
        hf.train(model, data, "linf:0.1")
    assert "\n" not in str(refused.value)


def test_a_network_trains_on_pictures_from_the_command_line(tmp_path):
    pictures(tmp_path / "pets", size=(4, 4))
    words = [
        "train",
        "--data",
        str(tmp_path / "pets"),
        "--threat",
        "linf:0.01",
        "--network",
        "cnn7",
        "--width",
        "2",
    ]
    words += ["--data.init-args.size", "4", "--epochs", "1", "--training.closing", "none", "--quiet"]
    assert main([*words, "--certificate.trace", "false", "--out", str(tmp_path / "run")]) == 0
    run = hf.Run.load(tmp_path / "run")
    assert run.figures.data.class_names == ("cat", "dog")
