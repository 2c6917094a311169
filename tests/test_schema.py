"""The record of a run: one schema, which writer and readers share."""

import ast
import importlib.util
import json
import math
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from random import Random
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.certificates import Certificate
from holdfast.errors import RunFolderError
from holdfast.record import schema
from holdfast.record.plain import figure, from_plain, to_plain
from holdfast.record.run import Run, RunWriter, read_figures, read_summary
from holdfast.record.schema import (
    SCHEMA,
    ClosingFigures,
    EpochFigures,
    EvaluationFigures,
    PartCounts,
    Summary,
)

PACKAGE = Path(__file__).parents[1] / "src" / "holdfast"
DOCS = Path(__file__).parents[1] / "docs"
FILES = (Summary, EpochFigures, EvaluationFigures)
TABLES = [kind for kind in vars(schema).values() if is_dataclass(kind) and kind.__module__ == schema.__name__]
LETTERS = 'aé漢 \t\n"\\/\u2028{}'


def anything(kind, random):
    """Any value of a type of the schema."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if random.random() < 0.3 else anything(arguments[0], random)
    if origin is Annotated:
        return random.choice((0.0, 1.0, 1e-90, random.random()))
    if origin is Literal:
        return random.choice(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(anything(arguments[0], random) for _ in range(random.randrange(3)))
    if origin is tuple:
        return tuple(anything(inner, random) for inner in arguments)
    if origin is dict:
        return {anything(str, random): anything(arguments[1], random) for _ in range(random.randrange(3))}
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return kind(
            **{
                entry.name: anything(hints[entry.name], random)
                for entry in fields(kind)
                if entry.name != "schema"
            }
        )
    made = {
        float: random.choice(
            (0.0, -1.0, random.gauss(0, 1), random.gauss(0, 1) * 10.0 ** random.randrange(-90, 90))
        ),
        int: random.choice((0, -1, random.randrange(10**30))),
        bool: random.random() < 0.5,
        str: "".join(random.choices(LETTERS, k=random.randrange(6))),
    }
    return made[kind]


@pytest.mark.parametrize("kind", FILES)
def test_what_is_written_is_read_back_and_what_is_read_is_written_back(kind):
    @settings(max_examples=60, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def check(seed):
        value = anything(kind, Random(seed))
        text = json.dumps(to_plain(value), allow_nan=False)
        read = from_plain(kind, json.loads(text), "a file", version=SCHEMA)
        assert read == value
        assert json.dumps(to_plain(read)) == text

    check()


def whole(kind):
    """A file of this kind as the writer leaves it, with every entry and a row in every table."""
    hints = get_type_hints(kind, include_extras=True)
    return to_plain(
        kind(**{entry.name: filled(hints[entry.name]) for entry in fields(kind) if entry.name != "schema"})
    )


def filled(kind):
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return filled(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin is tuple:
        return tuple(filled(inner) for inner in arguments if inner is not Ellipsis)
    if origin is dict:
        return {"name": filled(arguments[1])}
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{entry.name: filled(hints[entry.name]) for entry in fields(kind)})
    return {float: 0.5, int: 3, bool: True, str: "word", Annotated: 0.5}[origin or kind]


def places(value, path=()):
    """Every entry of nested tables and lists, as the way to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def named(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def changed(table, path, value):
    """The table with one entry changed; taken out where the value is ``MISSING``."""
    copy = json.loads(json.dumps(table))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


@pytest.mark.parametrize("kind", FILES)
def test_an_entry_of_another_kind_is_refused_by_file_and_name(kind):
    table = whole(kind)
    seen = 0
    for path in places(table):
        if path == ("schema",):
            continue
        with pytest.raises(RunFolderError) as error:
            from_plain(kind, changed(table, path, {"what": []}), "runs/x/file.json", version=SCHEMA)
        message = str(error.value)
        assert message.startswith("runs/x/file.json must hold ")
        assert named(path) in message
        assert message.endswith("; restore it, or train again.")
        assert "\n" not in message
        seen += 1
    assert seen >= len(fields(kind)) - 1


def field_at(kind, path):
    """The field behind an entry of nested tables and lists."""
    for key in path:
        while get_origin(kind) in (Union, UnionType, tuple):
            kind = get_args(kind)[0]
        if isinstance(key, str):
            entry = next(entry for entry in fields(kind) if entry.name == key)
            kind = get_type_hints(kind, include_extras=True)[key]
    return entry


@pytest.mark.parametrize("kind", FILES)
def test_missing_and_unknown_entries_are_refused_by_name(kind):
    table = whole(kind)
    for path in places(table):
        if (
            isinstance(path[-1], int)
            or "versions" in path[:-1]
            or "drift" in path[:-1]
            or path == ("schema",)
        ):
            continue
        read = lambda changes: from_plain(kind, changes, "a file", version=SCHEMA)  # noqa: E731
        if field_at(kind, path).metadata.get("optional"):
            read(changed(table, path, MISSING))
        else:
            with pytest.raises(
                RunFolderError, match=rf"must hold {named(path)}, but it is missing".replace("[", r"\[")
            ):
                read(changed(table, path, MISSING))
        with pytest.raises(RunFolderError, match="no entry of it"):
            read(changed(table, (*path[:-1], "new"), 1))


@pytest.mark.parametrize(
    ("share", "text"), [(1.5, "from 0 to 1"), (-0.1, "from 0 to 1"), (True, "number"), ("0.5", "number")]
)
def test_an_accuracy_is_a_share(share, text):
    with pytest.raises(RunFolderError, match=rf"clean_accuracy, got .*{share}|{text}"):
        from_plain(Summary, whole(Summary) | {"clean_accuracy": share}, "a file")


def test_a_newer_schema_is_refused_and_an_older_one_read_as_far_as_it_goes():
    table = whole(Summary)
    with pytest.raises(
        RunFolderError, match=rf"a file must follow schema {SCHEMA} or an older one, got {SCHEMA + 1}"
    ):
        from_plain(Summary, table | {"schema": SCHEMA + 1}, "a file")
    for wrong in ("2", True, 0, None, 1.5):
        with pytest.raises(RunFolderError, match="whole number >= 1"):
            from_plain(Summary, table | {"schema": wrong}, "a file")
    old = {key: value for key, value in table.items() if key not in ("schema", "gap", "best")}
    old |= {"seed": "zero", "threat": None, "command": ["holdfast"], "drift": [{"layer": "a", "more": 1}, 3]}
    read = from_plain(Summary, old, "a file")
    assert (read.schema, read.gap, read.seed, read.threat, read.surrogate_loss) == (1, None, None, None, 0.5)
    assert read.best == schema.BestFigures()
    assert [row.layer for row in read.drift] == ["a"]
    assert from_plain(Summary, to_plain(read), "a file") == read


def test_an_older_run_whose_summary_is_written_anew_stays_readable(tmp_path):
    """As `certify` and `evaluate` do, which leave the metrics as they are."""
    (tmp_path / "summary.json").write_text(json.dumps({"name": "old", "surrogate_loss": 0.5}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "speed": "fast"}) + "\n")
    before = read_figures(tmp_path)
    RunWriter(tmp_path).summary(replace(before.summary, gap=0.25))
    after = read_figures(tmp_path)
    assert (after.summary.schema, after.summary.gap) == (1, 0.25)
    assert after.epochs == before.epochs


def test_a_folder_says_its_schema_and_each_of_its_files_is_held_to_it(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.weights("model", {})
    writer.metrics([EpochFigures(epoch=1, online_loss=0.5)])
    writer.summary(
        Summary(name="run", gap=0.25, certificate=Certificate(status="certified", reason="r", radius=1.0))
    )
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text())["schema"] == SCHEMA
    assert read_summary(folder).gap == Run.load(folder).figures.gap == Run.load(folder).summary["gap"] == 0.25
    assert read_figures(folder).epochs == Run.load(folder).epochs == (EpochFigures(epoch=1, online_loss=0.5),)
    (folder / "digests.json").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    del summary["digests"]
    for entries, text in (({"gap": "0.25"}, "gap, got '0.25'"), ({"schema": 99}, "got 99")):
        (folder / "summary.json").write_text(json.dumps(summary | entries))
        for read in (Run.load, read_summary, read_figures):
            with pytest.raises(RunFolderError, match=rf"summary\.json must .*{text}"):
                read(folder)
    (folder / "summary.json").write_text(json.dumps(summary))
    line = json.loads((folder / "metrics.jsonl").read_text())
    (folder / "metrics.jsonl").write_text(json.dumps(line | {"online_loss": "low"}))
    with pytest.raises(RunFolderError, match=r"line 1 of .*metrics\.jsonl must hold a number as online_loss"):
        read_figures(folder)


def test_figures_that_are_none_are_null():
    assert [figure(x) for x in (None, math.nan, math.inf, 2)] == [None, None, None, 2.0]


def test_every_field_says_what_it_is():
    for kind in TABLES:
        assert kind.__doc__
        for entry in fields(kind):
            assert entry.metadata["says"], f"{kind.__name__}.{entry.name}"
            whole = entry.metadata["says"] + entry.metadata["unit"]
            assert "|" not in whole


def test_the_page_lists_the_schema():
    spec = importlib.util.spec_from_file_location("schema_tables", DOCS / "schema_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "explanations" / "runs.md").read_text(encoding="utf-8")
    assert module.written(text) == text, "run: python docs/schema_tables.py"
    assert all(f"| `{entry.name}` |" in text for kind in TABLES for entry in fields(kind))


# -- nobody outside record/ reads a summary by name

OWNERS = {"summary", "metrics", "read_summary", "read_metrics", "read_figures"}


def by_name(source):
    """Places that index something called a summary (or what reads one) by a bare string, or hand a string to its ``get``."""
    found, tree = [], ast.parse(source)
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension)]
    rows = {getattr(loop.target, "id", "") for loop in loops if getattr(loop.iter, "attr", "") in OWNERS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            owner, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner, key = node.func.value, node.args[0]
        else:
            continue
        while isinstance(owner, ast.Subscript | ast.Call):
            owner = owner.value if isinstance(owner, ast.Subscript) else owner.func
        name = getattr(owner, "attr", getattr(owner, "id", ""))
        if name in OWNERS | rows and isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.append((node.lineno, key.value))
    return found


@pytest.mark.parametrize(
    "source",
    [
        'summary["gap"]',
        'run.summary.get("gap")',
        'read_summary(folder)["gap"]',
        'run.metrics[0]["epoch"]',
        'x.summary.number("gap")',
        '[row["gap"] for row in run.metrics]',
    ],
)
def test_reading_by_name_would_be_seen(source):
    assert by_name(source)


def test_no_file_outside_the_record_reads_a_summary_by_name():
    others = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "record"]
    found = {str(path): places for path in others if (places := by_name(path.read_text(encoding="utf-8")))}
    assert len(others) > 200
    assert not found


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        (None, "8 of 12 test examples, drawn at random"),
        ({}, "the test part"),
        ({"population": 12}, "8 of 12 test examples, drawn at random"),
        ({"weights": "best"}, "8 of 12 test examples, drawn at random"),
        ({"part": "train"}, "8 of 12 test examples, drawn at random"),
        ({"threat": "linf:0.2"}, "8 of 12 test examples, drawn at random"),
    ],
)
def test_what_accuracies_are_of_is_a_sample_until_the_whole_part_was_evaluated(evaluation, says):
    closing = ClosingFigures(test=PartCounts(examples=8, population=12, robust=4), train=None, attacks=())
    whole = {"weights": "last", "part": "test", "threat": "l2:0.1", "population": None}
    found = None if evaluation is None else EvaluationFigures(**whole | evaluation)
    summary = Summary(accuracy_on="test", threat="l2:0.1", closing=closing, evaluation=found)
    assert summary.accuracy_of == says
    assert Summary().accuracy_of == "the test part"
    assert Summary(accuracy_on="train").accuracy_of == "the training part"
