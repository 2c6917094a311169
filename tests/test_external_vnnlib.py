"""VNN-LIB properties: read, written, read back, and what they say about points."""

import gzip
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import InputError
from holdfast.external import (
    Case,
    Condition,
    Property,
    counterexample_status,
    parse_vnnlib,
    read_vnnlib,
    robustness_property,
    write_robustness,
    write_vnnlib,
)

DECLARED = """; two inputs, three outputs
(declare-const X_0 Real)
(declare-const X_1 Real) ; a comment (with parentheses
(declare-const Y_0 Real)(declare-const Y_1 Real)
(declare-const Y_2 Real)
"""
BOX = """(assert (>= X_0 -0.5))
(assert (<= X_0 .25))
(assert (and (<= X_1 1e-1) (>= X_1 (- 2.5E0))))
"""


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_box_with_one_condition():
    prop = parse_vnnlib(DECLARED + BOX + "(assert (<= Y_0 Y_1))\n(assert (>= Y_2 3.5))")
    (case,) = prop.cases
    assert (prop.inputs, prop.outputs) == (2, 3)
    assert case.lower.tolist() == [-0.5, -2.5]
    assert case.upper.tolist() == [0.25, 0.1]
    (condition,) = case.conditions
    assert condition.A.tolist() == [[1, -1, 0], [0, 0, -1]]
    assert condition.b.tolist() == [0, -3.5]


def test_a_disjunction_of_outputs_shares_one_box():
    prop = parse_vnnlib(DECLARED + BOX + "(assert (or (and (<= Y_0 Y_1)) (and (<= Y_0 Y_2)) (>= 1.0 Y_0)))")
    (case,) = prop.cases
    assert [condition.A.tolist() for condition in case.conditions] == [
        [[1, -1, 0]],
        [[1, 0, -1]],
        [[1, 0, 0]],
    ]
    assert case.conditions[2].b.tolist() == [1.0]


def test_a_disjunction_of_boxes_makes_cases():
    text = """(assert (or
      (and (>= X_0 0.0) (<= X_0 1.0) (<= Y_0 0.0))
      (and (>= X_0 2.0) (<= X_0 3.0) (or (<= Y_1 1.0) (<= Y_2 2.0)))
      (and (>= X_0 1.0) (<= X_0 0.0) (<= Y_0 0.0))))
    (assert (and (>= X_1 0) (<= X_1 0)))"""
    prop = parse_vnnlib(DECLARED + text)
    assert len(prop.cases) == 2  # the last box is empty
    assert [(case.lower.tolist(), case.upper.tolist()) for case in prop.cases] == [
        ([0, 0], [1, 0]),
        ([2, 0], [3, 0]),
    ]
    assert [len(case.conditions) for case in prop.cases] == [1, 2]
    x = tensor([0.5, 0], [2.5, 0], [1.5, 0])
    y = tensor([9, 0, 9], [9, 0, 9], [9, 0, 9])
    assert prop.contains_input(x).tolist() == [True, True, False]
    assert prop.holds(y).tolist() == [True, True, True]
    assert prop.is_met(x, y).tolist() == [False, True, False]  # box and condition of the same case


def test_linear_terms_are_collected():
    text = "(assert (<= (+ (* 2.0 Y_0) (- Y_1 (* Y_2 0.5)) 1.0) (- Y_1)))"
    (condition,) = parse_vnnlib(DECLARED + BOX + text).cases[0].conditions
    assert condition.A.tolist() == [[2, 2, -0.5]]
    assert condition.b.tolist() == [-1]


def test_a_box_alone_is_met_by_any_output():
    prop = parse_vnnlib(DECLARED + BOX)
    assert prop.holds(torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).all()


def test_the_tightest_of_several_bounds_counts():
    (case,) = parse_vnnlib(
        DECLARED + BOX + "(assert (<= X_0 0.75))(assert (>= X_1 -9.0))(assert (>= X_0 0.0))"
    ).cases
    assert case.lower.tolist() == [0.0, -2.5]
    assert case.upper.tolist() == [0.25, 0.1]


def test_an_empty_box_has_no_counterexample():
    prop = parse_vnnlib(DECLARED + BOX + "(assert (<= X_0 -1.0))(assert (<= Y_0 0))")
    assert prop.cases == ()
    assert not prop.is_met(tensor([0.0, 0.0]), tensor([-1.0, 0.0, 0.0])).any()


LAST = DECLARED.count("\n") + BOX.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("(assert (< Y_0 1.0))", LAST, "and, or, <= or >=, got <;"),
        ("\n\n(assert (= Y_0 1.0))", LAST + 2, "got =;"),
        ("(declare-const Y_3 Int)", LAST, "declare-const NAME Real"),
        ("(declare-const z Real)", LAST, "names must be X_0"),
        ("(set-logic QF_LRA)", LAST, r"got \(set-logic \.\.\.\)"),
        ("(vnnlib-version <2.0>)", LAST, "vnnlib-version"),
        ("(check-sat)", LAST, "check-sat"),
        ("hello", LAST, "got hello"),
        ("(assert (<= Y_0 Y_7))", LAST, "Y_7 must be a number or a declared name"),
        ("(assert (<= Y_0 nan))", LAST, "nan must be"),
        ("(assert (<= Y_0 1e999))", LAST, "fit float64"),
        ("(assert (<= Y_0 (* 1e200 1e200)))", LAST, "fit float64"),
        ("(assert (<= (* Y_0 Y_1) 1.0))", LAST, "linear"),
        ("(assert (<= (max Y_0 Y_1) 1.0))", LAST, "got max"),
        ("(assert (<= X_0 Y_0))", LAST, "X_0 and Y_0"),
        ("(assert (<= X_0 X_1))", LAST, "X_0 and X_1"),
        ("(assert (<= 0.0 1.0))", LAST, "numbers alone"),
        ("(assert (<= Y_0))", LAST, "compare two terms, got 1"),
        ("(assert (or))", LAST, "at least one condition"),
        ("(assert (and\n (or\n (not Y_0))))", LAST + 2, "got not"),
        ("(assert\n(<= Y_0 1.0)", LAST + 1, f"line {LAST} is not closed"),
        ("(assert (<= Y_0 1.0)))", LAST, "has no opening one"),
        ("(" * 200, LAST, "more than 100 deep"),
    ],
)
def test_unknown_constructs_are_refused_with_their_line(text, line, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_vnnlib(DECLARED + BOX + text, name="a.vnnlib")
    assert f"a.vnnlib, line {line}: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DECLARED + "(assert (<= X_0 1.0))", "bound every input from both sides, but X_0"),
        ("(declare-const X_0 Real)(declare-const X_2 Real)(declare-const Y_0 Real)", "without gaps, got 2"),
        ("(declare-const X_0 Real)", "Y_0, Y_1, ... must be declared"),
        ("", "X_0, X_1, ... must be declared"),
        (DECLARED + BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 17, "more than 100000 conjunctions"),
        (
            DECLARED + BOX + f"(assert (or (<= Y_1 0) (and {'(or (<= Y_0 0) (<= Y_1 0))' * 17})))",
            "more than 100000",
        ),
    ],
)
def test_incomplete_files_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_vnnlib(text)


NUMBER = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)
TINY = st.one_of(NUMBER, st.sampled_from([0.0, 1.0, -1.0, 1e-300, 0.1, 1 / 3]))


@st.composite
def plain_properties(draw):
    """Numbers of inputs and outputs, and for each case its edges and its conditions' rows with limits."""
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    row = st.tuples(st.lists(TINY, min_size=outputs, max_size=outputs).filter(any), TINY)
    edges = st.lists(st.tuples(TINY, TINY).map(sorted), min_size=inputs, max_size=inputs)
    conditions = st.lists(st.lists(row, min_size=1, max_size=2), min_size=1, max_size=3)
    return inputs, outputs, draw(st.lists(st.tuples(edges, conditions), min_size=1, max_size=3))


def built(inputs, outputs, cases):
    return Property(
        inputs=inputs,
        outputs=outputs,
        cases=tuple(
            Case(
                lower=tensor(*(low for low, _ in edges)),
                upper=tensor(*(high for _, high in edges)),
                conditions=tuple(
                    Condition(A=tensor(*(row for row, _ in rows)), b=tensor(*(limit for _, limit in rows)))
                    for rows in conditions
                ),
            )
            for edges, conditions in cases
        ),
    )


@given(plain=plain_properties(), packed=st.booleans())
def test_what_is_written_is_read_back(tmp_path_factory, plain, packed):
    prop = built(*plain)
    path = tmp_path_factory.mktemp("props") / ("p.vnnlib.gz" if packed else "p.vnnlib")
    write_vnnlib(path, prop, comment="one\ntwo")
    back = read_vnnlib(path)
    assert (back.inputs, back.outputs) == (prop.inputs, prop.outputs)
    # Cases of one box come back as one.
    merged = {}
    for case in prop.cases:
        merged.setdefault((tuple(case.lower.tolist()), tuple(case.upper.tolist())), []).extend(
            case.conditions
        )
    assert [(tuple(case.lower.tolist()), tuple(case.upper.tolist())) for case in back.cases] == list(merged)
    assert [list(case.conditions) for case in back.cases] == list(merged.values())


def test_written_numbers_are_plain_decimals(tmp_path):
    prop = robustness_property(tensor(0.1, 1e-7), 1, outputs=2, radius=1e-9)
    write_vnnlib(tmp_path / "p.vnnlib", prop)
    text = (tmp_path / "p.vnnlib").read_text()
    assert re.search(r"\de", text) is None
    assert "(assert (or (and (<= Y_1 Y_0))))" in text


def test_what_has_no_words_in_the_format_is_refused(tmp_path):
    endless = Case(
        lower=tensor(-torch.inf), upper=tensor(1.0), conditions=(Condition(A=tensor([1.0]), b=tensor(0.0)),)
    )
    for cases in ((), (endless,)):
        with pytest.raises(InputError, match="finite box and a condition"):
            write_vnnlib(tmp_path / "p.vnnlib", Property(inputs=1, outputs=1, cases=cases))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is none"):
        read_vnnlib(tmp_path / "absent.vnnlib")
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress((DECLARED + BOX).encode())[:-9])
    with pytest.raises(InputError, match="gzipped text"):
        read_vnnlib(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="must be text"):
        read_vnnlib(path)


def test_the_robustness_property_is_the_ball_in_the_box_and_any_other_class():
    x = torch.tensor([[0.0, 0.3], [0.95, 0.5]])
    prop = robustness_property(x, 1, outputs=3, radius=0.1, bounds=(0.0, 1.0))
    (case,) = prop.cases
    exact = x.double().flatten()
    torch.testing.assert_close(case.lower, (exact - 0.1).clamp(min=0.0), rtol=0, atol=0)
    torch.testing.assert_close(case.upper, (exact + 0.1).clamp(max=1.0), rtol=0, atol=0)
    outputs = tensor([0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0], [3, 2, 1])
    assert prop.holds(outputs).tolist() == [False, True, True, True, True]
    assert prop.contains_input(x[None]).all()


def test_binary_networks_have_a_signed_output():
    x = torch.zeros(2)
    for label in (0, 1):
        prop = robustness_property(x, label, outputs=1, radius=0.1)
        assert prop.holds(tensor([1.0], [-1.0])).tolist() == [label == 0, label == 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": 3, "outputs": 3}, r"label must lie in 0\.\.2"),
        ({"label": 2, "outputs": 1}, r"label must lie in 0\.\.1"),
        ({"label": 0, "outputs": 3, "radius": -1.0}, "radius"),
        ({"label": 0, "outputs": 3, "radius": float("nan")}, "radius"),
    ],
)
def test_wrong_labels_and_radii_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        robustness_property(torch.zeros(2), **{"radius": 0.1, **options})


def test_one_file_an_example(tmp_path):
    x, labels = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1])
    paths = write_robustness(tmp_path / "props", x, labels, outputs=3, radius=8 / 255, bounds=(0.0, 1.0))
    assert [path.name for path in paths] == [f"example_{number:05d}.vnnlib" for number in range(3)]
    for path, example, label in zip(paths, x, labels.tolist(), strict=True):
        again = robustness_property(example, label, outputs=3, radius=8 / 255, bounds=(0.0, 1.0))
        assert read_vnnlib(path) == again
    with pytest.raises(InputError, match="one for each of 3 examples, got 2"):
        write_robustness(tmp_path / "props", x, labels[:2], outputs=3, radius=0.1)


def test_counterexamples_are_computed_again_in_float64():
    # In float32 the sum below is lost: 1 + 2^-30 rounds to 1.
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    x = torch.tensor([[1.0, 2.0**-30]])
    with torch.no_grad():
        assert float(model(x[None])[0, 0]) == float(model(x[None])[0, 1])
    exact = Fraction(1) + Fraction(1, 2**30)
    assert exact > 1
    smaller = robustness_property(x, 0, outputs=2, radius=0.0)  # met where y_0 <= y_1
    assert not counterexample_status(model, smaller, x)
    assert counterexample_status(model, robustness_property(x, 1, outputs=2, radius=0.0), x)
    assert model[1].weight.dtype == torch.float32
    assert model.training


def test_a_counterexample_lies_in_the_box():
    model = nn.Linear(2, 2)
    x = torch.zeros(2)
    prop = robustness_property(x, int(model(x).argmin()), outputs=2, radius=0.1)  # a wrong label: always met
    assert counterexample_status(model, prop, x)
    assert not counterexample_status(model, prop, torch.tensor([0.2, 0.0]))
    with pytest.raises(InputError, match="must have 2 numbers"):
        counterexample_status(model, prop, torch.zeros(3))
    with pytest.raises(InputError, match="outputs must have 2 numbers per example"):
        counterexample_status(nn.Linear(2, 3), prop, x)
