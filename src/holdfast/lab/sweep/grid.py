"""What a sweep consists of: the options of `holdfast train`, any of them with several values, as cells
with one value each.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast._registry import DATA
from holdfast._rules import TEXT, several, takes
from holdfast.config.commands import MOST_CELLS, SweepCommand
from holdfast.config.options import is_option, options_of
from holdfast.config.schema import RunConfig, to_dict
from holdfast.errors import InputError

SEED, RHO, WIDTH, DIMENSION = "--seed", "--rho", "--network.width", "--dimension"
CAPACITY_SETTINGS = ("--data.", "--threat.", SEED, RHO, WIDTH, DIMENSION)
RUN = options_of(RunConfig)
_SHORT_OF = {long: short for short, long in RUN.short.items()}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One setting with several values: its name for people, and the option it sets."""

    name: str
    option: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value of every axis, and the complete settings that follow.

    Attributes:
        slug: a name that is a file name.
        place: the axes' values by name.
        config: of the run, as `to_dict` has it.
        rho: in place of the threat's radius, where it is given.
        widths: tried by a capacity cell; ``None`` for a cell that trains.
    """

    slug: str
    place: dict[str, str]
    config: dict[str, Any]
    rho: float | None
    widths: tuple[int, ...] | None
    hidden_layers: int


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All cells of a sweep, in order, with the settings they share."""

    kind: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    shared: dict[str, Any]

    @property
    def title(self) -> str:
        """The data's name as a file name, for the folder."""
        name = str(self.cells[0].config["data"]["name"])
        return re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2]) + (
            "-capacity" if self.kind == "capacity" else ""
        )

    @property
    def swept(self) -> tuple[Axis, ...]:
        """Axes beside the seed with more than one value."""
        return tuple(axis for axis in self.axes if axis.option != SEED and len(axis.values) > 1)


@takes(argv=several(TEXT, least=0))
def read_grid(argv: Sequence[str]) -> tuple[Grid, SweepCommand, str | None]:
    """The sweep that ``[CONFIG.yaml] --option value[,value ..] ...`` describes, its own settings, and
    its folder if named.

    Every cell's settings are checked here, before anything runs.

    Raises:
        InputError: an unknown option, or a value that `holdfast train` would refuse.
    """
    from holdfast.config.reading import read

    file, options, words = _options(argv)
    own, _ = read(SweepCommand, words)
    out = options.pop("--out", None)
    if "--name" in options:
        raise InputError("--name is for one run, and a sweep has many; leave it out.")
    axes = [_axis(option, text) for option, text in options.items()]
    made = ((DIMENSION, own.dimension), (RHO, own.rho))
    axes += [_axis(option, text) for option, text in made if text is not None]
    if own.seeds is not None:
        if SEED in options:
            raise InputError("--seed and --seeds say the same in two ways, got both; leave one out.")
        axes.append(Axis(name="seed", option=SEED, values=tuple(map(str, range(own.seeds)))))
    widths = None
    if own.capacity:
        widths = _widths(next((axis for axis in axes if axis.option == WIDTH), None))
        axes = [axis for axis in axes if axis.option != WIDTH]
        foreign = [option for option in options if not option.startswith(CAPACITY_SETTINGS)]
        if foreign:
            raise InputError(
                f"{foreign[0]} is for training, got it with --capacity, which takes data, threat, width "
                "and seed; leave it out."
            )
    number = math.prod(len(axis.values) for axis in axes)
    if number > MOST_CELLS:
        raise InputError(
            f"a sweep must have at most {MOST_CELLS:,} cells, got {number:,}; list fewer values, or "
            "split it over several folders."
        )
    cells = [
        _cell(
            file,
            dict(zip((axis.option for axis in axes), values, strict=True)),
            axes,
            widths,
            own.hidden_layers,
            own.trusted,
        )
        for values in itertools.product(*(axis.values for axis in axes))
    ]
    repeated = sorted({cell.slug for cell in cells if [c.slug for c in cells].count(cell.slug) > 1})
    if repeated:
        raise InputError(f"every cell must differ, got {repeated[0]} twice; list each value once.")
    return (
        Grid(
            kind="capacity" if own.capacity else "train",
            axes=tuple(axes),
            cells=tuple(cells),
            shared=_shared(cells, axes),
        ),
        own,
        out,
    )


def _options(argv: Sequence[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """The configuration file, the options of a run in their long form, each with its text, and the words of the
    sweep's own.
    """
    file: str | None = None
    options: dict[str, str] = {}
    own: list[str] = []
    for word in options_of(SweepCommand).spelled(argv):
        option, _, value = word.partition("=")
        if not is_option(word):
            if file is not None or options or own:
                raise InputError(
                    f"at most one configuration file is allowed, first of all, got {word!r}; leave it out."
                )
            file = word
        elif option[2:].partition(".")[0].replace("-", "_") in RUN.entries:
            options[option] = value
        else:
            own.append(word)
    return file, options, own


def split_values(text: str) -> list[str]:
    """The parts between commas that no bracket holds.

    >>> split_values("[3,8],[1,7]"), split_values("256,1024")
    (['[3,8]', '[1,7]'], ['256', '1024'])
    """
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _axis(option: str, text: str) -> Axis:
    values = split_values(text)
    if not all(values) and text:
        raise InputError(f"{option} must list values between commas, got {text!r}; leave out the empty one.")
    short = _SHORT_OF.get(option, option).lstrip("-")
    return Axis(name=short.rpartition(".")[2], option=option, values=tuple(values))


def _widths(axis: Axis | None) -> tuple[int, ...]:
    if axis is None:
        from holdfast.lab.capacity.smallest import WIDTHS

        return WIDTHS
    wrong = next((text for text in axis.values if not text.isdecimal() or int(text) < 1), None)
    if wrong is not None:
        raise InputError(
            f"--width must list whole numbers >= 1, got {wrong!r}; leave it out for the default."
        )
    return tuple(map(int, axis.values))


def _cell(
    file: str | None,
    given: Mapping[str, str],
    axes: Sequence[Axis],
    widths: tuple[int, ...] | None,
    layers: int,
    trusted: bool,
) -> Cell:
    from holdfast.config.reading import read_config

    options = {option: text for option, text in given.items() if option != RHO}
    if DIMENSION in options:
        options["--data.init-args.dimension"] = options.pop(DIMENSION)
    name = options.get("--data.name", "")
    if (
        name in DATA and "examples" in DATA.settings(name) and "--data.examples" in options
    ):  # made up, as many
        options["--data.init-args.examples"] = options.pop("--data.examples")
    words = [f"{option}={text}" for option, text in options.items()]
    config, _ = read_config([file, *words] if file else words, trusted=trusted)
    place = {axis.name: given[axis.option] for axis in axes if len(axis.values) > 1 or axis.option == SEED}
    return Cell(
        slug=_slug(place),
        place=place,
        config=_plain(config),
        rho=_rho(given[RHO]) if RHO in given else None,
        widths=widths,
        hidden_layers=layers,
    )


def _rho(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise InputError(
            f"--rho must be a number in [0, 1), got {text!r}; at 1 threat sets of different labels meet."
        )
    return value


def _plain(config: RunConfig) -> dict[str, Any]:
    """The settings without where they are written."""
    return {key: value for key, value in to_dict(config).items() if key not in ("out", "name")}


def _slug(place: Mapping[str, str]) -> str:
    """``width-256,seed-0``; what is too long or strange for a file name ends in a digest."""
    words = [f"{name}-{value}" for name, value in place.items()] or ["cell"]
    plain = re.sub(r"[^\w.,+=-]+", "-", ",".join(words))
    if len(plain) <= 100 and plain == ",".join(words).replace(":", "-").replace("/", "-"):
        return plain
    return f"{plain[:80]}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"


def _shared(cells: Sequence[Cell], axes: Sequence[Axis]) -> dict[str, Any]:
    """What tells one sweep from another: settings that are the same in all cells, axes aside; more values
    may be added later.
    """
    flat = [_flat(cell.config) for cell in cells]
    swept = {
        path for axis in axes if len(axis.values) > 1 or axis.option == SEED for path in _paths(axis.option)
    }
    fixed = {
        key: value
        for key, value in flat[0].items()
        if key not in swept and all(f.get(key) == value for f in flat)
    }
    first = cells[0]
    return fixed | {
        "axes": sorted(axis.name for axis in axes if len(axis.values) > 1 or axis.option == SEED),
        "rho": first.rho if all(cell.rho == first.rho for cell in cells) else "swept",
        "widths": None if first.widths is None else list(first.widths),
        "hidden_layers": first.hidden_layers,
    }


def _paths(option: str) -> set[str]:
    """The entries an option sets."""
    inner = {
        DIMENSION: {"data.init_args.dimension"},
        "--data.examples": {"data.examples", "data.init_args.examples"},
    }
    return inner.get(option, {RUN.long.get(option, option.lstrip("-").replace("-", "_"))})


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
