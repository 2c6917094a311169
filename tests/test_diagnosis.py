"""One diagnosis: page, terminal, doctor and Python say the same; like is compared with like; nothing unsayable is a number."""

import copy
import html
import io
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import holdfast as hf
from holdfast.certificates import Certificate
from holdfast.certificates.certificate import void
from holdfast.cli.terminal import show_certificate, show_findings, show_run
from holdfast.diagnosis import Findings, Known, diagnose, intervals, summed_up, verdict
from holdfast.diagnosis.finding import Finding, from_dict
from holdfast.diagnosis.known import Counted
from holdfast.diagnosis.rules import OF_RUNS, RULES
from holdfast.diagnosis.thresholds import OVERFITTED, SMALL, WEAK_ACCURACY
from holdfast.errors import InputError
from holdfast.evaluation import evaluate
from holdfast.evaluation.closing import close, closing_attacks, examples_within
from holdfast.evaluation.parallel import evaluate_in_processes
from holdfast.evaluation.result import continued
from holdfast.evaluation.suites import suite
from holdfast.jobs.conclude import _logged
from holdfast.jobs.doctor import examine
from holdfast.record.run import Run
from holdfast.report import page, read_run
from report_folders import digits_run, evaluated_run, interrupted_run, ten_class_run, unsayable_run, void_run
from test_report import Seen

SIGN = {
    "name": "zero gradients",
    "level": "warning",
    "sentence": "12 % have none",
    "remedy": "attack the logits",
}


def diagnose_record(summary, rows=()):
    """Findings about a record of the first schema, in which anything may be missing."""
    return Run(
        folder=None,
        model=None,
        summary=summary,
        metrics=list(rows),
        certificate=void("not read", 1.0),
        best={},
    ).findings


def warned_run(folder):
    return evaluated_run(folder, verdict={"word": "doubt", "warnings": [SIGN]})


def contradicted_run(folder):
    """The proved bound lies above the loss that the attack of training found."""
    return digits_run(folder, attack_missed=0.0377)


RUNS = [
    digits_run,
    ten_class_run,
    void_run,
    unsayable_run,
    interrupted_run,
    evaluated_run,
    warned_run,
    contradicted_run,
]


def printed(show, *values) -> str:
    """What the terminal shows, on one line: wrapping is not in question."""
    out = Console(width=110, file=io.StringIO(), highlight=False)
    show(out, *values)
    return plain(out.file.getvalue())


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_findings_print_whole(tmp_path):
    folder = RUNS[0](tmp_path / "run")
    found = Findings(diagnose_record(json.loads((folder / "summary.json").read_text())))
    printed = str(found)
    for finding in found:
        assert finding.sentence in printed
        assert finding.remedy in printed
        assert str(finding).startswith(f"{finding.name}: {finding.level}: {finding.sentence}")
        assert str(finding).endswith(finding.remedy)
    assert "\n" not in repr(found)
    assert len(repr(found)) < 200


@pytest.mark.parametrize("build", RUNS)
def test_page_terminal_doctor_and_python_say_the_same(tmp_path, build):
    folder = build(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    run = Run(
        folder=folder,
        model=None,
        summary=summary,
        metrics=[],
        best={},
        certificate=Certificate(status="void", reason="not read", radius=1.0),
    )
    rows = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.endswith("}")
    ]
    expected = tuple(f.at_terminal() for f in diagnose_record(summary, rows))
    assert examine(folder)[-len(expected) :] == expected
    assert read_run(folder).findings == expected
    by_python = [f for f in run.findings if f.name not in OF_RUNS]
    assert [f.level for f in by_python] == [f.level for f in expected if f.name not in OF_RUNS]

    terminal, doctor = printed(show_run, folder, None), printed(show_findings, examine(folder))
    shown = Seen(page([read_run(folder)])).text
    words = {"good": "ok", "warning": "look", "bad": "bad", "not-measured": "-"}
    for found in expected:
        for text in (terminal, doctor):
            assert f"{found.name} {words[found.level]} {plain(found.sentence)}" in text
            assert plain(found.remedy) in text
        assert f"{found.level.replace('-', ' ')} {found.name} : {plain(found.sentence)}" in plain(shown)
        assert plain(found.remedy) in plain(shown)


def test_a_run_started_from_python_has_its_remedies_in_python(tmp_path):
    folder = interrupted_run(tmp_path / "run")
    shown = []
    for config in ("data: {name: digits}\n", "started_from: python\n"):
        (folder / "config.yaml").write_text(config)
        found, text = examine(folder), plain(Seen(page([read_run(folder)])).text)
        assert all(plain(f.remedy) in text for f in found if f.name in RULES)
        shown.append(" ".join(f.remedy for f in found))
    assert "--resume" in shown[0]
    assert "resume=True" not in shown[0]
    assert "resume=True" in shown[1]
    assert "--" not in shown[1]


@pytest.mark.parametrize("build", RUNS)
def test_the_cards_of_the_page_have_the_levels_and_figures_of_the_findings(tmp_path, build):
    run = read_run(build(tmp_path / "run"))
    html = page([run])
    cards = re.split(r'<div class="card(?: largest)?">', html.split("<h2>Accuracy</h2>")[0])[1:]
    for card, name in zip(cards, ("optimisation", "attack", "capacity"), strict=True):
        found = run.finding(name)
        assert f'badge {found.level}"' in card
        assert all(f"chip {kind}" in card for kind in found.kinds)
        assert all(value.text in card for value in found.values)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.floats(0, 2),
    st.integers(-5, 10**6),
    st.sampled_from(
        [
            10**400,
            "text",
            [],
            {},
            [{}],
            [{"radius": 1.0, "lower_bound": -3.0}],
            "certified",
            "estimate",
            "void",
        ]
    ),
)
KEYS = (
    "surrogate_loss",
    "robust_loss_lower_bound",
    "robust_loss_upper_bound",
    "robust_loss_upper_kind",
    "robust_loss_attacked",
    "gap",
    "certificate_status",
    "certificate_informative",
    "certificate_floor",
    "attack_missed",
    "training_attack_loss",
    "width_factor",
    "parameter_radius",
    "bounds_at_radii",
    "closing",
    "compatibility",
    "drift",
    "per_class",
    "data",
    "robust_accuracy",
    "evaluation",
    "interrupted",
    "certificate_reason",
    "attack",
)
COUNTS = st.dictionaries(
    st.sampled_from(["examples", "robust", "population", "under_training_attack"]), st.integers(-1, 50)
)


@settings(max_examples=150)
@given(
    summary=st.dictionaries(st.sampled_from(KEYS), ANYTHING, min_size=5),
    closing=st.one_of(st.none(), st.fixed_dictionaries({"train": COUNTS, "test": COUNTS})),
    losses=st.lists(ANYTHING, max_size=9),
)
def test_whatever_a_record_holds_every_trouble_has_a_remedy_and_no_figure_is_raw(summary, closing, losses):
    if closing is not None:
        summary["closing"] = closing
    found = diagnose_record(summary, [{"online_loss": loss} for loss in losses])
    assert {f.name for f in found} == set(RULES)
    for f in found:
        assert f.sentence
        assert bool(f.remedy) or f.level in ("good", "not-measured")
        assert f.level != "good" or not f.remedy
        assert not re.search("--[a-z]|`holdfast", f.remedy), "an option of the command line, in Python"
        assert not re.search(r"\w=|\bhf\.", f.at_terminal().remedy), "an argument of Python, in a command"
        assert all(math.isfinite(value.number) for value in f.values)
        assert not re.search(r"\b(nan|inf|None)\b", f.sentence + f.remedy)


@settings(max_examples=100)
@given(
    status=st.sampled_from(["certified", "estimate"]),
    floor=st.sampled_from([0.0, 0.325]),
    below=st.floats(0, 600),
    surrogate=st.floats(0.4, 3),
    informative=st.sampled_from([None, False, True]),
)
def test_from_the_trivial_bound_no_figure_follows(status, floor, below, surrogate, informative):
    summary = {
        "certificate_status": status,
        "robust_loss_lower_bound": floor - below,
        "gap": surrogate - floor + below,
        "surrogate_loss": surrogate,
        "robust_loss_upper_bound": surrogate + 0.01,
        "certificate_floor": floor,
        "certificate_informative": informative,
        "data": {"classes": 10},
        "parameter_radius": 12.0,
    }
    found = {f.name: f for f in diagnose_record(summary)}
    assert found["optimisation"].level == "not-measured"
    assert not found["optimisation"].values
    assert "nothing can be said at radius 12" in found["optimisation"].sentence
    assert {kind for f in found.values() for kind in f.kinds} <= {"observed"}


def test_a_loss_that_has_come_down_to_its_infimum_leaves_nothing_to_say_but_that():
    summary = {
        "certificate_status": "certified",
        "robust_loss_lower_bound": 0.0,
        "gap": 0.0,
        "surrogate_loss": 0.0,
        "certificate_floor": 0.0,
        "certificate_informative": True,
    }
    found = {f.name: f for f in diagnose_record(summary)}
    assert found["optimisation"].level == found["certificate"].level == "good"


def test_the_largest_radius_that_says_something_is_named():
    known = Known(
        status="estimate",
        informative=False,
        lower=0.0,
        surrogate=1.0,
        radius=60.0,
        at_radii=((6.0, 0.4), (12.0, 0.1), (18.0, 0.0), (90.0, 0.3)),
    )
    found = {f.name: f for f in diagnose(known)}
    said = "at radius 12 the estimated bound was 0.1000 from this run; a new run's may differ"
    assert f"{said} (parameter_radius=12)" in found["optimisation"].remedy
    assert f"{said} (--parameter-radius 12)" in found["optimisation"].command


def test_where_attacks_are_in_doubt_nothing_that_rests_on_them_is_simply_good(tmp_path):
    sound, doubted = (
        {f.name: f for f in read_run(build(tmp_path / build.__name__)).findings}
        for build in (evaluated_run, warned_run)
    )
    resting = [
        name for name in ("attack", "capacity", "generalisation", "classes") if sound[name].level == "good"
    ]
    assert resting
    for name in resting:
        reserved = doubted[name].sentence.startswith("as far as these attacks tell, ")
        assert reserved != (name == "capacity" and doubted[name].kinds[-1] == "proved")
        assert not sound[name].sentence.startswith("as far as")
    low = Known(
        surrogate=0.03,
        upper=0.03,
        classes=2.0,
        warnings=(Finding(name="gradients", level="warning", sentence="masked"),),
    )
    assert {f.name: f for f in diagnose(low)}["capacity"].sentence.startswith(
        "as far as these attacks tell, there is room"
    )


def test_each_figure_is_marked_with_how_it_is_known_and_the_first_to_look_at_is_named(tmp_path):
    summary = {
        "certificate_status": "certified",
        "robust_loss_lower_bound": 0.1,
        "gap": 0.1,
        "surrogate_loss": 0.2,
        "width_factor": 2.0,
        "network": {"width": 310},
    }
    found = diagnose_record(summary, [{"online_loss": loss} for loss in FALLING])
    gap_found = next(f for f in found if f.name == "optimisation")
    assert gap_found.claims == "0.1000 proved"
    assert "a wider network has less (width=620)" in gap_found.remedy
    assert "a wider network has less (--width 620)" in gap_found.command
    text = printed(show_findings, found)
    assert "and the loss was still falling (0.1000 proved)" in text
    assert "; start with: training." in text


FALLING = [0.69, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2]


def named(summary, losses=(), **row):
    """The findings by name, of a record whose epochs have these losses."""
    return {f.name: f for f in diagnose_record(summary, [{"online_loss": loss} | row for loss in losses])}


def test_an_interrupted_run_is_only_told_to_resume():
    """Neither more epochs than it was given, nor training again."""
    void = {
        "certificate_status": "void",
        "certificate_reason": "the run was interrupted before it was certified",
    }
    for certificate in (void, {"certificate_status": None}):
        found = named({"interrupted": True, "parameter_radius": 3.0, **certificate}, FALLING)
        assert found["training"].level == "warning"
        assert found["training"].remedy == found["certificate"].remedy == "resume the run"
        assert "was interrupted" in found["training"].sentence
        assert "resume=True" in found["run"].remedy
        assert "--resume" in found["run"].command
        assert "--trusted" in found["run"].command
        assert not any(word in f.remedy for f in found.values() for word in ("epochs", "train again"))
    assert named(void, FALLING)["certificate"].remedy.startswith("fix that cause and train again")


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (None, "train longer in the same ball (--epochs 16 --parameter-radius 32.27)"),
        (32.27, "train longer (--epochs 16)"),
    ],
)
def test_longer_training_stays_in_the_ball_that_its_bound_is_for(given, remedy):
    summary = {
        "certificate_status": "certified",
        "robust_loss_lower_bound": 0.1,
        "gap": 0.1,
        "surrogate_loss": 0.2,
        "certificate": {"radius": 32.27},
        "parameter_radius": given,
    }
    found = named(summary, FALLING)
    assert found["training"].command == found["optimisation"].command == remedy


@pytest.mark.parametrize("factor", [99.0, 101.0, 1e6])
@pytest.mark.parametrize("floor", [0.0, 0.1])  # a bound that says something, and one that does not
def test_no_remedy_asks_for_a_width_out_of_reach(factor, floor):
    summary = {
        "certificate_status": "certified",
        "robust_loss_lower_bound": 0.1,
        "certificate_floor": floor,
        "gap": 0.1,
        "surrogate_loss": 0.2,
        "width_factor": factor,
        "network": {"width": 300},
    }
    found = named(summary, FALLING)["optimisation"]
    assert ("--width" in found.command) == (factor < 100)
    assert ("--parameter-radius" in found.command) == (factor > 100)


@pytest.mark.parametrize(
    ("bounds", "level", "sentence"),
    [
        ((0.1, 0.2), "good", "every recorded epoch gives a bound"),
        ((0.0, 0.0, 0.0), "not-measured", "3 windows recorded, not one gives more than the trivial bound"),
        ((0.0, 0.1), "good", "2 windows recorded, 1 of them give more than the trivial bound"),
        ((None, float("nan")), "not-measured", "the run was too short"),
    ],
)
def test_windows_that_say_nothing_are_not_praised(bounds, level, sentence):
    rows = [{"online_loss": 0.5, "lower_bound": bound, "void": ""} for bound in bounds]
    found = {f.name: f for f in diagnose_record({"certificate_floor": 0.0}, rows)}["trace"]
    assert found.level == level
    assert sentence in found.sentence


def test_what_is_not_measured_has_no_figure_and_no_claim():
    found = named({"surrogate_loss": 0.5, "robust_loss_upper_bound": 0.9})
    assert found["capacity"].sentence == "not measured"
    assert found["capacity"].kinds == ()


def test_without_a_test_part_nothing_is_said_of_its_size():
    sizes = [{"class_name": name, "examples": 100} for name in "ab"]
    assert named({"per_class": sizes})["data"].sentence == "no class is rare"
    assert "enough test examples" in named({"per_class": sizes, "data": {"test": 500}})["data"].sentence


@pytest.mark.parametrize(
    ("certificate", "line"),
    [
        (
            Certificate(status="certified", reason="why", radius=92.8, lower_bound=0.0, surrogate_loss=1.0),
            "certificate: certified, nothing can be said at radius 92.8",
        ),
        (
            Certificate(
                status="estimate",
                reason="why",
                radius=2.0,
                lower_bound=0.5,
                gap=0.25,
                surrogate_loss=0.75,
                floor=0.0,
            ),
            "certificate: estimate, gap 0.25 at radius 2",
        ),
        (Certificate(status="void", reason="why", radius=2.0), "certificate: void, no claim at radius 2"),
    ],
)
def test_the_log_has_no_figure_where_nothing_can_be_said(certificate, line):
    assert _logged(certificate) == line


def test_the_page_names_the_radius_of_the_certificate_s_ball(tmp_path):
    folder = digits_run(tmp_path / "run", parameter_radius=None, certificate={"radius": 32.27})
    text = Seen(page([read_run(folder)])).text
    assert re.search(r"Radius of the parameter ball\s+32\.27", text)
    assert "within 32.27 of the initial weights" in text


def gap(train, test, population=None, under=None):
    known = Known(
        train=Counted(
            examples=train[1], robust=train[0], population=population or train[1], under_training_attack=under
        ),
        test=Counted(examples=test[1], robust=test[0], population=test[1]),
        trained_against=1.0,
        attacked=1.001,
    )
    return {f.name: f for f in diagnose(known)}


def test_overfitting_needs_a_gap_that_chance_does_not_explain():
    sure, chance = gap((900, 1000), (700, 1000)), gap((9, 10), (7, 10), population=50)
    assert sure["generalisation"].level == "warning"
    assert sure["generalisation"].value.number == pytest.approx(0.2)
    assert chance["generalisation"].level == "good"
    assert gap((800, 1000), (round(1000 * (0.8 - OVERFITTED)) + 1, 1000))["generalisation"].level == "good"


def test_a_sample_of_the_training_part_is_less_sure_than_all_of_it():
    whole, sample = gap((90, 100), (75, 100)), gap((90, 100), (75, 100), population=5000)
    assert "all 100" in whole["generalisation"].sentence
    assert "100 of 5,000" in sample["generalisation"].sentence
    assert whole["generalisation"].sentence != sample["generalisation"].sentence


def test_the_attack_gap_is_told_in_accuracy_too():
    found = gap((700, 1000), (690, 1000), under=700 + int(1000 * WEAK_ACCURACY) + 1)["attack"]
    assert found.level == "warning"
    assert [value.unit for value in found.values] == ["loss", "accuracy"]
    assert gap((700, 1000), (690, 1000), under=720)["attack"].level == "good"


def test_a_proved_bound_above_the_attack_s_loss_is_said_and_proved():
    found = {f.name: f for f in diagnose(Known(missed=2 * SMALL, trained_against=1.0, attacked=1.0))}[
        "attack"
    ]
    assert found.level == "warning"
    assert found.kinds == ("proved",)
    assert "missed at least 0.0200 of loss" in found.sentence


def test_the_attack_is_judged_on_the_network_it_attacked():
    """The surrogate loss may be that of other weights: those of the lowest loss."""
    summary = {"surrogate_loss": 0.5, "training_attack_loss": 0.8, "robust_loss_attacked": 0.805}
    found = {f.name: f for f in diagnose_record(summary)}["attack"]
    assert found.value.number == pytest.approx(0.005)
    assert found.level == "good"


def test_a_verified_upper_end_is_no_stronger_attack():
    summary = {
        "surrogate_loss": 0.05,
        "robust_loss_upper_bound": 0.09,
        "robust_loss_upper_kind": "verified",
        "data": {"classes": 2},
    }
    found = {f.name: f for f in diagnose_record(summary)}
    assert found["attack"].level == "not-measured"
    assert found["capacity"].kinds == ("proved",)


def test_networks_from_elsewhere_are_spared_the_rules_about_training():
    assert {f.name for f in diagnose(Known(of_run=False))} == set(RULES) - set(OF_RUNS)


@settings(max_examples=100)
@given(trials=st.integers(1, 400), share=st.floats(0, 1))
def test_intervals_hold_the_share_and_shrink(trials, share):
    successes = round(share * trials)
    low, high = intervals.wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    wider = intervals.wilson(successes, trials), intervals.wilson(4 * successes, 4 * trials)
    assert wider[1][1] - wider[1][0] < wider[0][1] - wider[0][0]


def test_the_interval_of_a_difference_covers():
    """Exact coverage over all outcomes of two binomials, against the nominal 95 %."""
    n, p, q = 40, 0.8, 0.6
    chance = [[math.comb(n, k) * r**k * (1 - r) ** (n - k) for k in range(n + 1)] for r in (p, q)]
    covered = sum(
        chance[0][a] * chance[1][b]
        for a in range(n + 1)
        for b in range(n + 1)
        for low, high in [intervals.difference((a, n), (b, n), first_whole=False)]
        if low <= p - q <= high
    )
    assert 0.94 <= covered <= 0.98


def test_findings_survive_a_record():
    kept = Finding(name="labels", level="bad", sentence="no better than guessing", remedy="renumber")
    assert from_dict(json.loads(json.dumps(kept.as_dict()))) == kept
    assert verdict([kept]) == "void"
    assert verdict([]) == "trust"
    assert summed_up([kept, kept]) == "2 bad, in 1 place: labels"
    other = Finding(name="attack", level="warning", sentence="weak", remedy="more steps")
    assert summed_up([kept, other]) == "1 bad: labels; 1 worth a look: attack"
    assert from_dict({}).level == "warning", "what is no level is not taken for a good one"


@pytest.mark.parametrize("status", ["certified", "estimate"])
def test_a_certificate_shown_again_says_nothing_where_nothing_can_be_said(tmp_path, status):
    silent = Certificate(
        status=status, reason="why", radius=20.0, surrogate_loss=1.5, lower_bound=0.0, gap=1.5
    )
    text = printed(show_certificate, silent, tmp_path / "certificate.json")
    assert text.count("nothing can be said at this radius") == 2
    assert "nothing can be said at this radius" in repr(silent)
    assert "gap" not in repr(silent)

    said = Certificate(
        status=status, reason="why", radius=20.0, surrogate_loss=1.5, lower_bound=1.1, gap=0.4, floor=0.0
    )
    text = printed(show_certificate, said, tmp_path / "certificate.json")
    assert "nothing can be said" not in text + repr(said)
    assert ("estimated gap 0.4000" in text) == (status == "estimate")


# Networks from elsewhere


@pytest.fixture(scope="module")
def elsewhere():
    """A small net trained by nobody's library but torch, its start, and its data."""
    data = hf.data.digits(classes=(3, 8, 5))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3))
    start = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = data.train.x[:150], data.train.y[:150].long()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, start, (x, y), (data.test.x[:60], data.test.y[:60].long())


THREAT = hf.LpBall("2", 0.2, bounds=(0.0, 1.0))
QUICK = {"final_attack": hf.PGD(steps=5), "seed": 3}


def test_a_network_from_elsewhere_is_diagnosed(elsewhere):
    net, _, (x, y), test = elsewhere
    found = hf.diagnose(net.train(), x, y, THREAT, test=test, **QUICK)
    assert net.training, "left as it was"
    assert {f.name for f in found} == set(RULES) - set(OF_RUNS)
    assert found["optimisation"].level == found["certificate"].level == "not-measured"
    assert found["generalisation"].level in ("good", "warning")
    assert "of 150 training examples" in found["generalisation"].sentence
    assert [value.unit for value in found["attack"].values] == ["loss", "accuracy"]
    assert found.certificate is None
    assert found.evaluation.verdict is not None
    assert repr(found).startswith("Diagnosis(")
    assert "\n" not in repr(found)
    assert len(repr(found)) < 160
    table = str(found)
    assert all(f"{f.name} " in table and f.sentence in table and f.remedy in table for f in found)
    assert "--" not in table
    with pytest.raises(KeyError):
        found["nothing of this name"]


def test_with_its_start_it_is_compared_with_the_best_of_its_ball(elsewhere):
    net, start, (x, y), _ = elsewhere
    far = hf.diagnose(net, x, y, THREAT, initial=start, **QUICK)
    assert far.certificate is not None
    assert far["certificate"].level == "warning", "an estimate"
    assert far["optimisation"].level != "good", "so far from the start the linear estimate says nothing"
    near = hf.networks.TwoLayer(64, 3, width=66, scale=0.4)
    proved = hf.diagnose(
        near, x, y, THREAT, initial=copy.deepcopy(near), attack=hf.FGSM(), radius=0.1, **QUICK
    )
    assert proved["certificate"].level == "good"
    assert proved["optimisation"].kinds == ("proved",)
    assert proved["optimisation"].value.number == pytest.approx(proved.certificate.gap)
    with pytest.raises(InputError, match="starting weights"):
        hf.diagnose(near, x, y, THREAT, initial={}, **QUICK)


def test_a_network_from_elsewhere_has_a_page(elsewhere, tmp_path):
    net, start, train, test = elsewhere
    found = hf.diagnose(net, *train, THREAT, test=test, initial=start, **QUICK)
    page = hf.write_report(found, tmp_path / "page.html").read_text(encoding="utf-8")
    for finding in found:
        if finding.level in ("warning", "bad"):
            assert html.escape(finding.sentence[1:], quote=False) in html.unescape(page)
    assert f"{100 * found.evaluation.robust_accuracy:.2f}"[:4] in page
    assert "Where the loss comes from" in page
    for word in ("doctor RUN", "<h2>The run</h2>", "Accuracy over epochs", "No gallery", "Gallery</h2>"):
        assert word not in page
    run = hf.train(
        hf.networks.TwoLayer(64, 3, width=6),
        hf.data.digits(classes=(3, 8, 5)),
        THREAT,
        attack="fgsm",
        epochs=1,
        closing="none",
        out=tmp_path / "run",
        progress=False,
    )
    both = hf.write_report([run.folder, found], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "Side by side" in both
    assert "doctor RUN" in both
    with pytest.raises(InputError, match=r"what holdfast\.diagnose gave"):
        hf.write_report(net, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_weak_training_attack_is_named(elsewhere):
    net, _, (x, y), _ = elsewhere
    found = hf.diagnose(net, x, y, THREAT.with_radius(0.8), attack=hf.RandomAttack(samples=1), **QUICK)[
        "attack"
    ]
    assert found.level == "warning"
    assert "random" in found.sentence


def test_incompatible_labels_are_found(elsewhere):
    net, _, (x, y), _ = elsewhere
    wrong = y.clone()
    x = torch.cat([x, x[:1]])
    wrong = torch.cat([wrong, (wrong[:1] + 1) % 3])
    found = hf.diagnose(net, x, wrong, THREAT, **QUICK)["threat"]
    assert found.level == "bad"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threat": 3}, "threat must be"),
        ({"attack": "pdg"}, "attack must be"),
        ({"radius": -1.0}, "radius must be"),
        ({"test": (1, 2, 3)}, "test must be a pair"),
        ({"seed": -1}, "seed must be"),
        ({"y": [0, 1]}, "150 rows and 2 labels"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_attacked(elsewhere, changes, words):
    net, _, (x, y), _ = elsewhere
    given = {"x": x, "y": y, "threat": THREAT} | changes
    counted = Counting(net)
    with pytest.raises(InputError, match=words):
        hf.diagnose(counted, **given)
    assert counted.rows == 0


def test_text_and_arrays_will_do(elsewhere):
    net, _, (x, y), (a, b) = elsewhere
    found = hf.diagnose(
        net,
        x[:30].double().numpy(),
        y[:30].tolist(),
        "l2:0.2",
        attack="fgsm",
        test=(a.numpy(), b.int()),
        final_attack="fgsm",
    )
    assert found["generalisation"].level != "not-measured"


# Both parts under the same attacks


class Counting(nn.Module):
    """Counts the rows it is asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.rows, self.passes = net, 0, 0.0

    def forward(self, x):
        self.rows += len(x)
        self.passes += len(x) * (1.0 if x.requires_grad else 0.5)  # half of a pass goes back
        return self.net(x)


@pytest.mark.parametrize("passes", [3e3, 10e3, 25e3])
def test_a_closing_evaluation_keeps_to_the_passes_it_is_given(elsewhere, monkeypatch, passes):
    monkeypatch.setattr("holdfast.evaluation.closing.SMALL", 0)
    monkeypatch.setattr("holdfast.evaluation.closing.FEWEST", 2)
    net, _, train, test = elsewhere
    final = hf.PGD(steps=20, restarts=2, keep_best=True)
    most = examples_within(passes, len(train[1]), len(test[1]), THREAT, final)
    counted = Counting(net)
    close(counted, train, test, THREAT, final, loss=hf.CrossEntropy(), seed=0, most=most)
    # nearly nothing breaks here, and each search also scores its points
    assert 0.6 * passes < counted.passes < 1.15 * passes


def test_both_parts_meet_the_same_attacks_at_no_more_cost_than_one_of_them_did(elsewhere):
    net, _, train, test = elsewhere
    final = hf.PGD(steps=40, restarts=2, keep_best=True)
    counted = Counting(net)
    closing = close(counted, train, test, THREAT, final, loss=hf.CrossEntropy(), seed=0)
    spent, counted.rows = counted.rows, 0
    evaluate(counted, *train, THREAT, (final,), drop_broken=False, seed=0, examine=False, verify=None)
    evaluate(counted, *test, THREAT, (final, *suite("fast", THREAT)), seed=0, examine=False, verify=None)
    assert spent <= counted.rows
    record = closing.record(torch.ones(150, dtype=torch.bool))
    assert record["attacks"][0] == final.name
    assert record["train"]["examples"] == record["test"]["examples"] == 60
    assert record["train"]["population"] == 150
    alike = evaluate(
        net,
        train[0][closing.same],
        train[1][closing.same],
        THREAT,
        (final, *closing_attacks(THREAT)),
        seed=0,
        examine=False,
        verify=None,
    )
    assert abs(record["train"]["robust"] - int(alike.robust.sum())) <= 1, "up to the random starts"


def test_further_attacks_break_more_and_keep_the_books(elsewhere):
    net, _, (x, y), _ = elsewhere
    threat = THREAT.with_radius(0.8)
    first = evaluate(net, x, y, threat, [hf.RandomAttack(samples=1)], examine=False, verify=None)
    rows = first.robust.nonzero().squeeze(1)[::2]
    more = evaluate(net, x[rows], y[rows], threat, [hf.PGD(steps=20)], examine=False, verify=None)
    both = continued(first, rows, more)
    assert int(first.robust.sum()) - int(both.robust.sum()) == int((~more.robust).sum()) > 0
    assert set(both.broken_by[rows][~more.robust].tolist()) == {1}
    assert [stage.name for stage in both.stages] == [stage.name for stage in (*first.stages, *more.stages)]
    assert (both.loss >= first.loss).all()
    assert bool(threat.contains(both.x, x).all())
    broken = ~both.robust & first.robust
    assert bool((net(both.x[broken]).argmax(1) != y[broken]).all())


# The verdict of an evaluation


def test_an_evaluation_carries_its_verdict(elsewhere):
    net, _, _, (x, y) = elsewhere
    x, y = x[:30], y[:30]
    trusted = hf.evaluate(net.eval(), x, y, THREAT, attacks="fast", verify=None)
    assert (trusted.verdict, trusted.warnings) == ("trust", ())
    void = hf.evaluate(net, x, (y + 1) % 3, THREAT, attacks="fast", verify=None)
    assert void.verdict == "void"
    assert [(sign.name, sign.level) for sign in void.warnings if sign.level == "bad"] == [("labels", "bad")]
    assert all(sign.sentence and sign.remedy for sign in void.warnings)
    doubted = hf.evaluate(net, x, y, THREAT, attacks="clean", verify=None)
    assert doubted.verdict == "doubt"
    assert hf.evaluate(net, x, y, THREAT, attacks="fast", examine=False, verify=None).verdict is None


def test_a_model_handed_over_in_training_mode_is_noticed(elsewhere):
    net, _, _, (x, y) = elsewhere
    x, y = x[:30], y[:30]
    model = nn.Sequential(net, nn.Dropout(0.5)).train()
    found = hf.evaluate(model, x, y, THREAT, attacks=[hf.FGSM()], verify=None)
    assert "training mode" in {sign.name for sign in found.warnings}


def test_each_example_s_own_radius_counts_in_the_search_for_signs(elsewhere):
    net, _, _, (x, y) = elsewhere
    x, y = x[:30], y[:30]
    radii = torch.where(torch.arange(len(x)) % 2 == 0, 0.05, 0.2)
    found = hf.evaluate(net.eval(), x, y, THREAT.with_radius(5.0), attacks="fast", radii=radii, verify=None)
    assert found.verdict == "trust", "in balls of radius 5 a further search would break most"
    assert bool(THREAT.contains(found.x, x).all())


def test_processes_give_a_verdict_too(elsewhere):
    net, _, _, (x, y) = elsewhere
    x, y = x[:30], y[:30]
    found = evaluate_in_processes(net.eval(), x, (y + 1) % 3, THREAT, [hf.FGSM()], processes=2, verify=None)
    assert found.verdict == "void"


def test_a_convolution_on_flat_rows_is_told_how_to_reshape_them():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)).eval()
    with pytest.raises(InputError, match=r"nn\.Unflatten\(1, \(1, 8, 8\)\)"):
        hf.evaluate(
            net, torch.rand(4, 64), torch.zeros(4, dtype=torch.long), THREAT, attacks="fast", verify=None
        )
