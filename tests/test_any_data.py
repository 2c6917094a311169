"""Data sets of any kind for training, in memory and in memory-mapped files."""

import json
import math
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import holdfast as hf
from holdfast.cli.main import main
from holdfast.data import from_dataset, from_tensors, load, mapped
from holdfast.errors import InputError

X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2
PAIRS = TensorDataset(X, Y)


class Stream(IterableDataset):
    """Examples one after another, with no length."""

    def __init__(self, start=0, stop=40):
        self.rows = range(start, stop)

    def __iter__(self):
        return ((X[row], Y[row]) for row in self.rows)


class Rows:
    """Rows of dictionaries with the features that Hugging Face tells."""

    class Label:
        names = ("no", "yes")

    def __init__(self, items, label="label", **kinds):
        self.items, self.features = items, {label: self.Label(), **kinds}

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Pictures(Dataset):
    """A stand-in for a data set of torchvision: images of Pillow, and a part for training and one for tests."""

    classes = ("dark", "light")

    def __init__(self, root, train=True, transform=None, download=False):
        self.size, self.transform = 20 if train else 8, transform
        assert root == "here"
        assert not download

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        grey = Image.new("L", (4, 3), 40 + 100 * (index % 2) + index)
        return (grey if self.transform is None else self.transform(grey)), index % 2


def train(data, model=None, **settings):
    model = hf.networks.TwoLayer(6, 2, 8, seed=1) if model is None else model
    run = hf.train(
        model,
        data,
        "linf:0.001",
        attack=hf.PGD(steps=1),
        epochs=2,
        batch_size=8,
        closing="none",
        progress=False,
        **settings,
    )
    return model, run


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


KINDS = {
    "set": lambda: PAIRS,
    "stream": Stream,
    "shuffled": lambda: DataLoader(PAIRS, batch_size=7, shuffle=True),
    "loader": lambda: DataLoader(PAIRS, batch_size=7),
    "unbatched": lambda: DataLoader(PAIRS, batch_size=None),
    "stream-loader": lambda: DataLoader(Stream(), batch_size=7),
    "list": lambda: list(zip(X, Y, strict=True)),
    "zip": lambda: zip(X, Y, strict=True),
    "rows": lambda: Rows([{"img": x, "labels": int(y)} for x, y in zip(X, Y, strict=True)], "labels"),
    "generator": lambda: ({"x": x.numpy(), "y": y} for x, y in zip(X, Y, strict=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", [False, True])
def test_every_kind_of_items_gives_the_same_data(kind, cache, tmp_path):
    data = from_dataset(KINDS[kind](), validation=0, cache=tmp_path / "c" if cache else None)
    assert torch.equal(data.x, X)
    assert torch.equal(data.y, Y)
    assert len(data.train) == 40


def test_parts_and_shares_are_what_they_were_in_memory_and_on_the_disk(tmp_path):
    for number, options in enumerate(
        (
            {"validation": 0.2},
            {"validation": 0.2, "test": 0.3, "seed": 4},
            {"validation": Stream(0, 10), "test": 0.25},
            {"validation": 0.2, "test": Stream(5, 15), "classes": (1, 0)},
            {"validation": PAIRS, "test": PAIRS, "dtype": torch.float64, "bounds": None},
        )
    ):
        held = from_dataset(PAIRS, **options)
        kept = from_dataset(PAIRS, cache=tmp_path / str(number), **options)
        again = load(tmp_path / str(number))
        for data in (kept, again):
            assert (data.classes, data.bounds, data.class_names) == (
                held.classes,
                held.bounds,
                held.class_names,
            )
            for part in ("train", "validation", "test"):
                one, other = getattr(data, part), getattr(held, part)
                assert torch.equal(one.x, other.x)
                assert torch.equal(one.y, other.y)
                assert one.x.dtype == other.x.dtype
                # each part is one stretch of the file: a view, not a copy
                assert (
                    len(one) == 0 or one.x.untyped_storage().data_ptr() == data.x.untyped_storage().data_ptr()
                )


def test_shares_are_those_of_from_tensors():
    one = from_dataset(PAIRS, 0.25, validation=0.2, seed=3)
    other = from_tensors(X, Y, (0.0, 1.0), validation=0.2, test=0.25, seed=3)
    assert torch.equal(one.split.train, other.split.train)
    assert torch.equal(one.split.test, other.split.test)


def test_bounds_by_feature_and_rounding_at_them_are_kept(tmp_path):
    pairs = [(torch.full((2,), 0.1), label) for label in (0, 1)]  # in float32, where a tenth is above 0.1
    for cache in (None, tmp_path / "number"):
        data = from_dataset(pairs, validation=0, bounds=(0.0, 0.1), cache=cache)
        assert float(data.x.double().max()) <= 0.1
        assert data.bounds == (0.0, 0.1)
    box = (torch.zeros(2), torch.tensor([0.2, 0.3]))
    data = from_dataset(pairs, validation=0, bounds=box, cache=tmp_path / "feature")
    for opened in (data, mapped(tmp_path / "feature")):
        assert torch.equal(opened.bounds[1], box[1].double())


def test_the_same_run_from_tensors_and_from_a_file_is_the_same_bit_for_bit(tmp_path):
    from_memory, _ = train(from_dataset(PAIRS, 0.1, validation=0.2))
    cached = from_dataset(Stream(), 0.1, validation=0.2, cache=tmp_path / "c")
    from_file, run = train(cached)
    tensors, _ = train(from_tensors(X, Y, (0.0, 1.0), validation=0.2, test=0.1))
    assert torch.equal(weights(from_memory), weights(from_file))
    assert torch.equal(weights(from_memory), weights(tensors))
    assert math.isfinite(run.certificate.gap)


def test_a_run_on_cached_data_is_resumed_bit_for_bit(tmp_path):
    cached = from_dataset(PAIRS, validation=0.2, cache=tmp_path / "c")
    whole, _ = train(cached)
    model = hf.networks.TwoLayer(6, 2, 8, seed=1)
    settings = {
        "attack": hf.PGD(steps=1),
        "batch_size": 8,
        "closing": "none",
        "progress": False,
        "out": tmp_path / "run",
    }
    hf.train(model, cached, "linf:0.001", epochs=1, **settings)
    model = hf.networks.TwoLayer(6, 2, 8, seed=1)
    hf.train(model, load(tmp_path / "c"), "linf:0.001", epochs=2, resume=True, **settings)
    assert torch.equal(weights(whole), weights(model))
    other = from_dataset(PAIRS, validation=0.25, cache=tmp_path / "other")
    with pytest.raises(InputError, match=r"data was data .*, got data"):
        hf.train(model, other, "linf:0.001", epochs=3, resume=True, **settings)


def test_what_is_written_to_the_examples_does_not_reach_the_file(tmp_path):
    data = from_dataset(PAIRS, validation=0, cache=tmp_path / "c")
    data.x[0] = 0.5
    assert torch.equal(load(tmp_path / "c").x, X)


def test_an_existing_folder_is_refused_and_says_how_to_open_it(tmp_path):
    from_dataset(PAIRS, validation=0, cache=tmp_path / "c")
    with pytest.raises(
        InputError, match=r"cache must be a new folder, .*holdfast\.data\.load\('.*c'\), or remove it"
    ):
        from_dataset(PAIRS, validation=0, cache=tmp_path / "c")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="which exists, and may hold other data; name another, or remove it"):
        from_dataset(PAIRS, validation=0, cache=tmp_path / "other")


def test_nothing_is_left_of_a_cache_that_was_not_finished(tmp_path):
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if index == 30:
                raise OSError("cut short")
            return super().__getitem__(index)

    with pytest.raises(InputError, match="item 30 of train must be readable"):
        from_dataset(Broken(X, Y), cache=tmp_path / "c")
    with pytest.raises(InputError, match=r"x must lie in bounds, got .* of 240 values outside"):
        from_dataset(PAIRS, cache=tmp_path / "c", bounds=(0.0, 0.5))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache must be a folder that can be written"):
        from_dataset(PAIRS, cache=tmp_path / "file" / "c")


@pytest.mark.parametrize("what", ["changed", "cut", "labels", "text", "version"])
def test_a_damaged_cache_is_refused(what, tmp_path):
    folder = tmp_path / "c"
    from_dataset(PAIRS, validation=0, cache=folder)
    if what in ("changed", "cut"):
        file = folder / "examples.bin"
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content if what == "changed" else content[:-4])
    elif what == "labels":
        (folder / "rows.safetensors").write_bytes(b"nothing")
    else:
        file = folder / "dataset.json"
        said = json.loads(file.read_text())
        file.write_text("{" if what == "text" else json.dumps(said | {"version": 9}))
    with pytest.raises(InputError, match="must hold a data set as from_dataset wrote it") as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_a_cache_refuses_other_parts_and_another_dtype(tmp_path):
    from_dataset(PAIRS, validation=0, cache=tmp_path / "c")
    with pytest.raises(InputError, match=r"test must be None for .*whose parts are as they were written"):
        load(tmp_path / "c", test=0.2)
    with pytest.raises(InputError, match="dtype must be that of"):
        load(tmp_path / "c", dtype=torch.float64)
    assert load(tmp_path / "c", dtype=torch.float32, seed=5).x.dtype == torch.float32


class Noisy(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x * torch.rand(()), y


class NoisyStream(Stream):
    def __iter__(self):
        return ((X[row], int(torch.randint(2**30, ()))) for row in self.rows)


@pytest.mark.parametrize("items", [Noisy(X, Y), NoisyStream(), DataLoader(Noisy(X, Y))])
def test_random_items_are_refused(items):
    said = r"item 0 of train must be the same at each reading, got two different ones; .*pass augmentation= to holdfast\.train"
    with pytest.raises(InputError, match=said):
        from_dataset(items)


def test_a_transform_that_is_random_now_and_then_is_found():
    class Flipped(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return (x.flip(0) if torch.rand(()) < 0.5 else x), y

    torch.manual_seed(0)
    found = 0
    for _ in range(20):
        try:
            from_dataset(Flipped(X, Y))
        except InputError:
            found += 1
    assert found >= 19


def test_an_endless_iterable_is_bounded_by_limit():
    endless = ((X[row % 40], row % 2) for row in count())
    data = from_dataset(endless, validation=0, limit=25)
    assert len(data.y) == 25
    assert next(endless)[1] == 1  # nothing more was taken
    assert len(from_dataset(PAIRS, PAIRS, validation=0, limit=10).y) == 20
    with pytest.raises(InputError, match="limit must be a whole number >= 1"):
        from_dataset(PAIRS, limit=0)


def test_data_that_do_not_fit_say_what_to_do(monkeypatch):
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 100)
    with pytest.raises(InputError, match=r"pass cache= to keep them in a file, or limit= to read fewer"):
        from_dataset(Stream())


def test_many_blocks_become_one_tensor(monkeypatch):
    monkeypatch.setattr("holdfast.data.datasets.BLOCK", 100)  # four examples
    assert torch.equal(from_dataset(Stream(0, 38), validation=0).x, X[:38])


def test_images_become_pixels_and_names_are_taken_over():
    data = from_dataset(Pictures("here"), Pictures("here", train=False), validation=0)
    assert data.shape == (1, 3, 4)
    assert data.class_names == ("dark", "light")
    assert float(data.x[1].max()) == pytest.approx(141 / 255)
    colours = [(Image.new(mode, (4, 3), 1), k % 2) for k, mode in enumerate(("RGB", "P", "RGBA", "RGB"))]
    assert from_dataset(colours, validation=0).shape == (3, 3, 4)
    black = [(Image.new("1", (2, 2), k), k) for k in (0, 1)]
    assert from_dataset(black, validation=0).x.flatten(1).mean(1).tolist() == [0.0, 1.0]


def test_names_of_hugging_face_are_taken_over_where_they_fit():
    rows = [{"image": x, "label": int(y), "id": 3} for x, y in zip(X, Y, strict=True)]
    assert from_dataset(Rows(rows), validation=0).class_names == ("no", "yes")
    assert from_dataset(Rows(rows), validation=0, classes=(1, 0)).class_names == ("yes", "no")
    assert from_dataset(Rows(rows), validation=0, class_names=("a", "b")).class_names == ("a", "b")
    shifted = [row | {"label": row["label"] + 1} for row in rows]
    assert from_dataset(Rows(shifted), validation=0, classes=(1, 2)).class_names == ("1", "2")
    with pytest.raises(InputError, match="got columns image, x, label; say where they are with columns="):
        from_dataset(Rows([{"image": X[0], "x": X[0], "label": 0}]))


SPLITS = {"train": PAIRS, "test": PAIRS}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PAIRS, r"from_dataset\(train, test\) makes one of a torch or Hugging Face Dataset"),
        (DataLoader(PAIRS), r"from_dataset\(loader\) makes one of a DataLoader"),
        (Stream(), r"from_dataset\(train, test\) makes one of a torch IterableDataset, and limit="),
        (zip(X, Y, strict=True), r"from_dataset\(iterable\) makes one of \(example, label\) pairs"),
        ((PAIRS, PAIRS), r"from_dataset\(train, test\) makes one of two such parts"),
        (SPLITS, r"from_dataset\(splits\['train'\], splits\['test'\]\) makes one of its splits"),
        (
            {"train": 0, "validation": 0, "test": 0},
            r"from_dataset\(splits\['train'\], splits\['test'\], validation=splits\['validation'\]\)",
        ),
        ((X, Y), r"from_tensors\(x, y\)"),
        (np.ones((2, 2)), r"from_tensors\(x, y\)"),
        ("digits", r"holdfast\.data\.load\("),
        (3, r"from_tensors\(x, y\) makes one, holdfast\.data\.load\('digits'\)"),
    ],
)
def test_where_a_dataset_is_needed_the_call_that_makes_one_is_named(data, said):
    with pytest.raises(InputError, match=f"data must be a holdfast Dataset, got .*{said}") as refused:
        hf.train(torch.nn.Linear(6, 2), data, "linf:0.1")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("items", [SPLITS, (PAIRS, PAIRS), X, "digits", TensorDataset, 3])
def test_from_dataset_says_what_else_was_given(items):
    with pytest.raises(InputError, match="train must be a data set or a DataLoader of torch"):
        from_dataset(items)


# From the command line


def rows_of_dictionaries():
    return Rows([{"img": x, "label": int(y)} for x, y in zip(X, Y, strict=True)])


def two_parts():
    return PAIRS, Subset(PAIRS, range(10))


def no_data():
    return 3


def config_of(tmp_path, name, *words):
    arguments = [
        "train",
        "--data",
        f"test_any_data:{name}",
        "--threat",
        "linf:0.001",
        "--epochs",
        "1",
        "--quiet",
    ]
    arguments += ["--training.closing", "none", "--network", "two-layer", "--width", "8", "--attack", "fgsm"]
    return main([*arguments, "--out", str(tmp_path / "run"), *words])


def parts(tmp_path):
    found = hf.Run.load(tmp_path / "run").figures.data
    return found.train, found.validation, found.test


def test_a_class_of_torch_data_is_trained_on_from_the_command_line(tmp_path):
    arguments = ["--data.init-args", "{root: here, download: false}", "--data.validation", "0.2"]
    assert config_of(tmp_path, "Pictures", *arguments) == 0
    assert parts(tmp_path) == (16, 4, 8)  # both its parts
    assert hf.Run.load(tmp_path / "run").figures.data.class_names == ("dark", "light")


def test_one_part_of_such_a_class_is_split(tmp_path):
    arguments = [
        "--data.init-args",
        "{root: here, train: true}",
        "--data.validation",
        "0.2",
        "--data.test",
        "0.2",
    ]
    assert config_of(tmp_path, "Pictures", *arguments) == 0
    assert parts(tmp_path) == (12, 4, 4)


def test_rows_of_dictionaries_and_two_parts_come_from_a_function(tmp_path):
    assert (
        config_of(tmp_path / "a", "rows_of_dictionaries", "--data.validation", "0", "--data.test", "0") == 0
    )
    assert parts(tmp_path / "a") == (40, 0, 0)
    assert config_of(tmp_path / "b", "two_parts", "--data.validation", "0") == 0
    assert parts(tmp_path / "b") == (40, 0, 10)


def test_what_is_no_data_is_refused_on_the_command_line(tmp_path, capsys):
    assert config_of(tmp_path, "no_data") == 2
    assert "must give an object of type Dataset, got int" in " ".join(capsys.readouterr().err.split())


def test_a_cache_is_data_on_the_command_line(tmp_path):
    from_dataset(PAIRS, 0.25, validation=0.25, cache=tmp_path / "c", name="mine")
    words = ["train", "--data", str(tmp_path / "c"), "--threat", "linf:0.001", "--epochs", "1", "--quiet"]
    words += [
        "--training.closing",
        "none",
        "--width",
        "8",
        "--attack",
        "fgsm",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    assert hf.Run.load(tmp_path / "run").figures.data.name == "mine"


def test_a_cache_whose_description_was_changed_is_refused(tmp_path):
    pairs = [(torch.rand(2), i % 2) for i in range(8)]
    hf.data.from_dataset(pairs, validation=0.25, cache=tmp_path / "c")
    file = tmp_path / "c" / "dataset.json"
    file.write_text(file.read_text().replace('"little"', '"little" '))  # the same content
    hf.data.load(tmp_path / "c")
    file.write_text(file.read_text().replace('"validation": 2', '"validation": 1'))
    with pytest.raises(InputError, match=r"dataset\.json is not as it was written"):
        hf.data.load(tmp_path / "c")


def test_what_is_no_data_set_leaves_no_cache(tmp_path):
    pairs = [(torch.tensor([float("nan")]), 0), (torch.ones(1), 1)]
    with pytest.raises(InputError):
        hf.data.from_dataset(pairs, validation=0, cache=tmp_path / "c")
    assert not list(tmp_path.iterdir())
