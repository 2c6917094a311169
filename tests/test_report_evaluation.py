"""The report on evaluations: the bracket of robust accuracy, its verdict, the cascade, the curve and the hardest examples."""

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from holdfast.report import page, read_run
from holdfast.report.accuracy import accuracy_bracket, curve_figure, parts
from holdfast.report.bracket import NARROW, WIDE
from holdfast.report.evaluated import EvaluatedPart, read_evaluation
from report_folders import digits_run, evaluated_run, write_summary
from test_report import ANYTHING, EVIL, check_labels, raw_words, seen

SVG = "{http://www.w3.org/2000/svg}"


def found_in(folder: Path) -> EvaluatedPart:
    found = read_evaluation(read_run(folder))
    assert found is not None
    return found


def section(folder: Path) -> str:
    """What a reader sees of the evaluation."""
    told = re.search(
        r"(Robust accuracy (?:trust|doubt|void|no verdict).*?) Training and bounds", seen(folder).text
    )
    assert told, "the page has no section on the evaluation"
    return told[1]


# What the page says


def test_the_bracket_is_told_with_its_claims_and_its_verdict(tmp_path):
    text = section(evaluated_run(tmp_path / "run"))
    assert "trust No sign that the attacks failed was found. That is no proof." in text
    assert (
        "Against l2:0.1, on 40 examples drawn from 54 of the test part, the robust accuracy lies between 55.00 % , proved, "
        "and 87.50 % , observed: no attack tried broke more."
    ) in text
    assert (
        "Of the whole part, at 95 % confidence: verified 38.49 % to 70.74 %, not broken 73.20 % to 95.81 %"
        in text
    )
    assert "hold, proved: 22 (55.00 %)" in text
    assert "open: neither proved nor broken: 13 (32.50 %)" in text
    assert "broken by an attack: 4 (10.00 %)" in text
    assert "wrong unattacked: 1 (2.5 %)" in text or "wrong unattacked: 1 (2.500 %)" in text
    assert "0.3121 to 0.7003 observed to proved" in text
    assert "bear out the figures all 40 in their threat sets" in text


def test_a_run_without_an_evaluation_has_no_such_section(tmp_path):
    text = seen(digits_run(tmp_path / "run")).text
    assert "Robust accuracy" not in text
    assert "neither proved nor broken" not in text.lower()


def test_the_cascade_tells_what_each_step_decided(tmp_path):
    text = section(evaluated_run(tmp_path / "run"))
    for row in (
        "apgd-ce-100 39 36 0.5 s 3 broken observed",
        "crown 36 14 1.2 s 22 proved",
        "apgd-dlr-100-targets-9 14 14 0 s not for two classes",
        "fab-100-targets-9 14 13 0.9 s 1 broken observed",
        "square-5000 13 13 2.1 s 0 broken observed",
    ):
        assert row in text


def test_a_step_with_nothing_to_do_claims_nothing(tmp_path):
    stage = {"name": "square-5000", "kind": "attack", "entered": 0, "left": 0, "seconds": 0.0, "note": ""}
    assert "square-5000 0 0 0 s nothing left" in section(evaluated_run(tmp_path / "run", stages=[stage]))


def test_without_bounds_nothing_is_called_proved(tmp_path):
    folder = evaluated_run(
        tmp_path / "run",
        verify=None,
        robust_accuracy_verified=None,
        per_class=[],
        hardest=[],
        stages=[
            {"name": "apgd-ce-100", "kind": "attack", "entered": 39, "left": 35, "seconds": 1.0, "note": ""}
        ],
        robust_loss={"attacked": 0.3, "verified": None},
        curve=[{"radius": r, "verified": 0.0, "not_broken": 0.9 - r} for r in (0.1, 0.2)],
    )
    text = section(folder)
    assert (
        "the robust accuracy is at most 87.50 % , observed: no attack tried broke more. Nothing was proved."
        in text
    )
    assert "verified" not in text
    assert not re.search(r"\bproved\b", text.replace("Nothing was proved", "").replace("bounds prove", ""))
    curve = curve_figure(found_in(folder), "run")
    assert curve is not None
    assert [series.label for series in curve.legend] == ["not broken (observed)", "unattacked 97.50 %"]


def test_a_closed_bracket_is_one_figure(tmp_path):
    text = section(evaluated_run(tmp_path / "run", robust_accuracy=0.55, hardest=[]))
    assert (
        "the robust accuracy is 55.00 % , proved: every example is proved, broken or wrong unattacked."
        in text
    )


@pytest.mark.parametrize(("word", "level"), [("doubt", "warning"), ("void", "bad")])
def test_doubts_stand_with_their_remedies(tmp_path, word, level):
    sign = {
        "name": "zero gradients",
        "level": level,
        "sentence": "12 % have none",
        "remedy": "attack the logits",
    }
    text = section(evaluated_run(tmp_path / "run", verdict={"word": word, "warnings": [sign]}))
    assert f"{level} zero gradients : 12 % have none attack the logits" in text
    assert "No sign that the attacks failed" not in text
    assert ("read nothing into the figure observed" in text) == (word == "void")


@pytest.mark.parametrize(
    "verdict", [None, {}, {"word": "certainly"}, "trust", {"word": None, "warnings": "many"}]
)
def test_what_is_no_verdict_is_not_taken_for_trust(tmp_path, verdict):
    text = section(evaluated_run(tmp_path / "run", verdict=verdict))
    assert text.startswith("Robust accuracy no verdict Whether the attacks failed: not measured.")


def test_figures_that_contradict_are_said_to(tmp_path):
    recheck = {"examples": 40, "outside": 2, "wrong_flags": 0, "wrong_losses": 1, "sound": False}
    folder = evaluated_run(tmp_path / "run", robust_accuracy_verified=0.9, intervals=None, recheck=recheck)
    text = section(folder)
    assert "More is proved than was not broken: a bound or an attack is wrong." in text
    assert "do not bear out these figures: 2 outside their threat sets, 1 with another loss." in text
    assert not parts(found_in(folder))


def test_the_classes_gain_a_verified_column_where_there_is_one(tmp_path):
    folder = evaluated_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    assert "three 19 94.73 % 84.21 % 52.63 %" in section(folder), (
        "classes of the evaluation, unlike the run's"
    )
    assert re.search(r"Classes Class Examples Clean Under attack three", seen(folder).text)
    write_summary(folder, summary | {"per_class": summary["evaluation"]["per_class"]})
    text = seen(folder).text
    assert "Accuracy of each class in this evaluation" not in text
    assert re.search(
        r"Classes Class Examples Clean Under attack observed Verified proved three 19 94.73 % 84.21 % 52.63 %",
        text,
    )


def test_several_runs_compare_their_brackets(tmp_path):
    folders = [
        evaluated_run(tmp_path / "a"),
        digits_run(tmp_path / "b"),
        evaluated_run(
            tmp_path / "c",
            verify=None,
            robust_accuracy_verified=None,
            verdict={"word": "void", "warnings": []},
        ),
    ]
    found = seen(*folders)
    table = re.search(r"Side by side (.*?) Where the loss comes from", found.text)[1]
    assert (
        "Robust accuracy 55.00 % proved to 87.50 % observed not evaluated at most 87.50 % observed" in table
    )
    assert "Verdict trust not evaluated void" in table
    assert "Evaluated on l2:0.1, 40 examples, standard attacks not evaluated l2:0.1" in table
    words = [known.get("aria-label") or "" for tag, known in found.elements if tag == "svg"]
    assert sum(word.startswith("Bar of all examples") for word in words) == 4, "two runs, wide and narrow"


@pytest.mark.parametrize(
    ("changes", "cited", "not_cited"),
    [
        (
            {},
            ("2003.01690", "1907.02044", "1912.00049", "1811.00866", "2106.09947"),
            ("2011.13824", "1810.12715", "2103.01208", "1608.04644"),
        ),
        (
            {"stages": [], "attacks": "mine", "verdict": None},
            (),
            ("2003.01690", "1912.00049", "1811.00866", "2106.09947"),
        ),
        (
            {"stages": [{"name": "alpha", "kind": "bound"}]},
            ("2011.13824", "1811.00866"),
            ("1810.12715", "1907.02044"),
        ),
        ({"stages": [{"name": "auto", "kind": "bound"}]}, ("2011.13824", "1811.00866", "1810.12715"), ()),
        ({"stages": [{"name": "square-5000", "kind": "attack", "seconds": 0.0}]}, (), ("1912.00049",)),
        (
            {"stages": [{"name": "apgd-ce-100", "kind": "attack"}], "threat": "l1:3"},
            ("2103.01208",),
            ("1912.00049",),
        ),
        ({"stages": [{"name": "carlini-wagner-100x5", "kind": "attack"}]}, ("1608.04644",), ("1912.00049",)),
    ],
)
def test_an_evaluation_cites_what_it_used(tmp_path, changes, cited, not_cited):
    html = page([read_run(evaluated_run(tmp_path / "run", **changes))])
    assert all(work in html for work in cited)
    assert not any(work in html for work in not_cited)


def test_apgd_is_not_pgd(tmp_path):
    folder = evaluated_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    assert "1706.06083" in page([read_run(folder)])
    write_summary(folder, summary | {"attack": "APGD(alpha=1)"})
    html = page([read_run(folder)])
    assert "1706.06083" not in html
    assert "2011.13824" not in html


# The hardest examples


def test_the_hardest_are_shown_as_pictures_of_their_own_rows(tmp_path):
    folder = evaluated_run(tmp_path / "run")
    found = found_in(folder)
    assert found.pictures is not None
    assert found.pictures.x.shape == (3, 1, 8, 8)
    assert np.allclose(found.pictures.attacked - found.pictures.x, 0.02, atol=1e-6)
    assert found.pictures.label.tolist() == [1, 0, 1]
    pictures = [known for tag, known in seen(folder).elements if tag == "img"]
    assert len(pictures) == 18 + 9
    assert "row 31" in section(folder)


@pytest.mark.parametrize("case", ["tabular", "absent", "cut", "pickle", "other", "short", "shapes", "keys"])
def test_where_there_are_no_pictures_the_hardest_are_a_table(tmp_path, case):
    folder = evaluated_run(tmp_path / "run", images=case != "tabular", pictures=case != "absent")
    path = folder / "evaluation" / "attacked.safetensors"
    x, y, loss = np.zeros((40, 1, 8, 8)), np.zeros(40, np.int64), np.zeros(40)
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif case == "pickle":
        path.write_bytes(b"\x80\x04cos\nsystem\n")
    elif case == "other":
        save_file({"x": x, "attacked": x, "y": y, "loss": loss}, path)
    elif case == "short":
        save_file({"x": x[:9], "attacked": x[:9], "y": y[:9], "loss": loss[:9]}, path)
    elif case == "shapes":
        save_file({"x": x, "attacked": x[:, :, :4], "y": y, "loss": loss}, path)
    elif case == "keys":
        save_file({"x": x}, path)
    text = section(folder)
    loss_told = re.search(r"Loss under attack 31 eight (0\.\d+)", text)
    assert loss_told, text
    problem = {
        "cut": "is cut short",
        "pickle": "is cut short",
        "keys": "is cut short",
        "other": "is of another evaluation",
        "short": "does not hold these examples",
        "shapes": "does not hold these examples",
    }
    assert ("No pictures" in text) == (case in problem)
    assert problem.get(case, "") in text


# Pictures


def test_the_bar_divides_all_examples(tmp_path):
    found = found_in(evaluated_run(tmp_path / "run"))
    root = ElementTree.fromstring(str(accuracy_bracket(found, WIDE)))
    bars = [
        (bar.get("class"), float(bar.get("x") or 0), float(bar.get("width") or 0))
        for bar in root.iter(f"{SVG}rect")
    ]
    assert [style for style, _, _ in bars] == ["fill-capacity", "fill-open", "fill-attack", "fill-wrong"]
    total = sum(width for _, _, width in bars)
    assert [width / total for _, _, width in bars] == pytest.approx([0.55, 0.325, 0.1, 0.025], abs=1e-4)
    for (_, left, width), (_, following, _) in pairwise(bars):
        assert left + width == pytest.approx(following, abs=0.02)


SHARE = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.5, 1e-9]), st.floats(0, 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(shares=st.tuples(SHARE, SHARE, SHARE), sample=st.booleans())
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_labels_below_the_bar_stay_inside_and_apart(tmp_path, width, shares, sample):
    verified, standing, clean = sorted(s for s in shares if s is not None) + [None] * shares.count(None)
    record = {
        "verify": "crown",
        "robust_accuracy_verified": verified,
        "robust_accuracy": standing,
        "clean_accuracy": clean,
        "intervals": {key: [0.0, 1.0] for key in ("clean", "robust", "verified")} if sample else None,
    }
    write_summary(tmp_path, {"evaluation": record})
    drawn = accuracy_bracket(found_in(tmp_path), width)
    assert bool(drawn) == (verified is not None or standing is not None)
    if not drawn:
        return
    check_labels(ElementTree.fromstring(str(drawn)), width)


def test_the_curve_shades_what_is_open(tmp_path):
    curve = curve_figure(found_in(evaluated_run(tmp_path / "run")), "run")
    assert curve is not None
    labels = [
        "not broken (observed)",
        "verified (proved)",
        "open: neither proved nor broken",
        "unattacked 97.50 %",
    ]
    assert [series.label for series in curve.legend] == labels
    assert curve.legend[1].points == ((0.05, 0.85), (0.1, 0.55), (0.2, 0.1)), "in increasing order"
    assert curve.legend[2].points == (
        (0.05, 0.95),
        (0.1, 0.875),
        (0.2, 0.725),
        (0.2, 0.1),
        (0.1, 0.55),
        (0.05, 0.85),
    )
    area = [
        path
        for path in ElementTree.fromstring(str(curve.svg)).iter(f"{SVG}path")
        if "area" in (path.get("class") or "")
    ]
    assert len(area) == 1
    assert (area[0].get("d") or "").endswith("Z")


@pytest.mark.parametrize(
    "curve",
    [None, [], [{"radius": 0.1, "verified": 0.5, "not_broken": 0.6}], [{"radius": None}] * 3, "curve"],
)
def test_fewer_than_two_radii_are_no_curve(tmp_path, curve):
    folder = evaluated_run(tmp_path / "run", curve=curve)
    assert curve_figure(found_in(folder), "run") is None
    assert "against the radius" not in section(folder)


# What users typed, and figures that are none


def test_everything_in_an_evaluation_is_escaped(tmp_path):
    folder = evaluated_run(
        tmp_path / "run",
        data=EVIL,
        part=EVIL,
        threat=EVIL,
        attacks=EVIL,
        verify=EVIL,
        stages=[{"name": EVIL, "kind": "attack", "entered": 2, "left": 1, "seconds": 1.0, "note": EVIL}],
        per_class=[{"class_name": EVIL, "examples": 1, "verified_accuracy": 1.0}],
        hardest=[{"example": 31, "label": EVIL, "loss": None}],
        verdict={
            "word": "doubt",
            "warnings": [{"name": EVIL, "level": EVIL, "sentence": EVIL, "remedy": EVIL}],
        },
    )
    for folders in ([folder], [folder, folder]):
        found = seen(*folders)
        assert not [tag for tag, _ in found.elements if tag == "script"]
        assert not [known for _, known in found.elements for key in known if key.startswith("on")]
        images = [known for tag, known in found.elements if tag == "img"]
        assert all((known["src"] or "").startswith("data:image/png;base64,") for known in images)
    assert section(folder).count("<script>alert(1)</script>") > 8, "shown as typed"


ROW = st.dictionaries(
    st.sampled_from(
        [
            "name",
            "kind",
            "entered",
            "left",
            "seconds",
            "note",
            "radius",
            "verified",
            "not_broken",
            "example",
            "label",
            "loss",
            "level",
            "sentence",
            "remedy",
            "word",
            "warnings",
            "attacked",
            "sound",
            "outside",
            "examples",
            "class_name",
            "verified_accuracy",
            "clean",
            "robust",
        ]
    ),
    ANYTHING | st.lists(st.floats(), max_size=3),
    max_size=8,
)
KEYS = (
    "examples",
    "population",
    "threat",
    "attacks",
    "verify",
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_verified",
    "intervals",
    "robust_loss",
    "stages",
    "per_class",
    "curve",
    "hardest",
    "verdict",
    "recheck",
    "seconds",
    "seed",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    changes=st.dictionaries(
        st.sampled_from(KEYS), ANYTHING | ROW | st.lists(ROW | ANYTHING, max_size=3), max_size=10
    ),
    missing=st.sets(st.sampled_from(KEYS)),
)
def test_whatever_an_evaluation_holds_the_page_shows_none_raw(tmp_path, changes, missing):
    folder = tmp_path / "run"
    if not folder.exists():
        evaluated_run(folder)
        (tmp_path / "whole.json").write_bytes((folder / "summary.json").read_bytes())
        for name in (
            "metrics.jsonl",
            "gallery.safetensors",
            "config.yaml",
            "log.txt",
        ):  # quicker, and not in question
            (folder / name).unlink()
    whole = json.loads((tmp_path / "whole.json").read_text())
    evaluation = {key: value for key, value in (whole["evaluation"] | changes).items() if key not in missing}
    write_summary(folder, whole | {"evaluation": evaluation})
    assert not raw_words(seen(folder))


@pytest.mark.parametrize("evaluation", [None, [], "done", {}, 3])
def test_what_is_no_evaluation_is_none(tmp_path, evaluation):
    folder = digits_run(tmp_path / "run", evaluation=evaluation)
    assert read_evaluation(read_run(folder)) is None
    assert "Robust accuracy" not in seen(folder).text


def test_every_key_missing_still_has_a_section(tmp_path):
    folder = digits_run(tmp_path / "run", evaluation={"seed": 1})
    assert "Against the threat, the robust accuracy was not measured." in section(folder)
