"""Plans: what they hold, on the terminal and the page, and that their width keeps its word."""

import json
import math
from pathlib import Path

import pytest
import torch

import holdfast as hf
from holdfast.certificates.required_width import WIDE, CurvatureTerm, curvature_term
from holdfast.cli.main import main
from holdfast.jobs.plan import plan
from holdfast.report.plan import sentences, width_text
from holdfast.theory import ntk, optimal_robust_loss


@pytest.fixture(scope="module")
def digits() -> hf.Dataset:
    return hf.data.digits(classes=(0, 1))


@pytest.fixture(scope="module")
def planned(digits: hf.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    threat = hf.LpBall("2", 0.2, bounds=digits.bounds)
    plan(digits, threat, radii=[3.0, 10.0, 30.0], target_loss=0.2, examples=60, out=folder, progress=False)
    return folder


def test_plan_json_holds_what_the_contract_names(planned: Path) -> None:
    record = json.loads((planned / "plan.json").read_text())
    for curve in (record["clean"], record["robust"]):
        assert curve["radii"] == [3.0, 10.0, 30.0]
        assert all(low <= high for low, high in zip(curve["lower"], curve["upper"], strict=True))
        assert curve["upper"] == sorted(curve["upper"], reverse=True)
    assert record["clean"]["lower"][0] <= record["robust"]["upper"][0]
    assert record["compatible"] is True
    assert record["separation"] > 0.4
    assert record["rho"] == pytest.approx(0.2 / (record["separation"] / 2))
    assert record["width"] % 2 == 0
    assert 3 <= record["parameter_radius"] <= 30
    assert record["cost"]["seconds_an_epoch"] > 0


def test_the_page_stands_alone_and_says_the_same(planned: Path) -> None:
    page = (planned / "plan.html").read_text()
    record = json.loads((planned / "plan.json").read_text())
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert f"{record['robust']['upper'][1]:#.4g}"[:6] in page
    for sentence in sentences(record):
        assert sentence.split(";")[0][:40] in page.replace("&#39;", "'")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p"
    arguments = ["plan", "--data", "digits", "--classes", "0,1", "--threat", "linf:0.05", "--examples", "40"]
    status = main([*arguments, "--radii", "5,20", "--activation", "relu", "--out", str(out), "--quiet"])
    text = capsys.readouterr().out
    assert status == 0
    assert "Compatible" in text
    assert "optimal robust loss" in text
    assert text.rstrip().endswith("plan.html")
    assert json.loads((out / "plan.json").read_text())["robust"]["radii"] == [5.0, 20.0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threat", "linf:0.05"], "--data"),
        (["--data", "digits", "--threat", "linf:-1"], "radius"),
        (["--data", "digits", "--threat", "linf:0.1", "--radii", "5,x"], "radii must be a list of numbers"),
        (["--data", "digits", "--threat", "linf:0.1", "--radii", "-5"], "radii must be > 0"),
        (
            ["--data", "digits", "--threat", "linf:0.1", "--classes", "3,a"],
            "data.classes must be a list of whole numbers",
        ),
        (["--data", "digits", "--threat", "linf:0.1", "--target-loss", "0"], "target_loss must be > 0"),
        (["--data", "digits", "--threat", "linf:0.1", "--radius", "5"], "did you mean --radii"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments, "--out", str(tmp_path / "p"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_meeting_threat_sets_are_said_with_figures(digits: hf.Dataset, tmp_path: Path) -> None:
    threat = hf.LpBall("2", 5.0, bounds=digits.bounds)
    found = plan(digits, threat, radii=[2.0], examples=20, out=tmp_path / "new" / "p", progress=False)
    assert found.compatible is False
    assert found.pairs_meeting > 0
    assert found.rho is not None
    assert found.rho > 1
    record = json.loads((tmp_path / "new" / "p" / "plan.json").read_text())
    assert sentences(record)[0].startswith(f"Incompatible: the threat sets of {found.pairs_meeting:,} pairs")
    assert record["width"] is None
    assert float(found.robust.lower[0]) > 0.2


def test_other_networks_have_curves_but_no_width(digits: hf.Dataset) -> None:
    threat = hf.LpBall("2", 0.1, bounds=digits.bounds)
    deep = hf.networks.Dense(64, 2, width=16, depth=2, activation="relu")
    conv = torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.Tanh(), torch.nn.Linear(20, 2))
    for model in (deep, conv):
        found = plan(digits, threat, model, radii=[1.0, 4.0], examples=24, progress=False)
        assert found.width is None
        assert type(model).__name__ in found.width_reason
        assert float(found.robust.upper[1]) < float(found.robust.upper[0])


def test_the_width_keeps_its_word() -> None:
    """Trained at the width worked out beforehand, the certificate closes to the gap aimed at; with a tenth of the units it is wider."""
    data = hf.data.on_sphere(hf.data.digits(classes=(3, 8), validation=0.3, test=0.3))
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    like = hf.networks.TwoLayer(data.features, 2, 200, "softplus")
    curve = optimal_robust_loss(ntk(like), data.train.x, data.train.y, threat, [8.0])
    term = curvature_term(like, curve.solutions[0])
    width = math.ceil(term.width_for(0.005) / 2) * 2
    gaps = []
    for units in (width, width // 20 * 2):
        run = hf.train(
            hf.networks.TwoLayer(data.features, 2, units, "softplus"),
            data,
            threat,
            attack=hf.PGD(steps=10, start="example"),
            parameter_radius=8.0,
            learning_rate=4.0,
            epochs=60,
            closing="none",
            progress=False,
            certificate=hf.CertificateSettings(tighten=0),
        )
        assert run.certificate.status == "certified"
        gaps.append(run.certificate.gap)
        if units == width:  # the trained network is as good as the limit says it can be
            assert run.certificate.surrogate_loss == pytest.approx(float(curve.upper[0]), abs=0.02)
    assert gaps[0] <= 0.005
    assert gaps[1] > gaps[0]


def test_the_curvature_term_falls_as_the_power_of_width() -> None:
    """Against the matrices of networks that really have that width."""
    data = hf.data.on_sphere(hf.data.digits(classes=(0, 1), validation=0.0, test=0.0))
    for activation, power in (("softplus", 1 / 2), ("relu", 1 / 6)):
        like = hf.networks.TwoLayer(data.features, 2, 400, activation)
        curve = optimal_robust_loss(ntk(like), data.train.x[:80], data.train.y[:80], None, [10.0])
        small, large = (
            curvature_term(
                hf.networks.TwoLayer(data.features, 2, width, activation, seed=1), curve.solutions[0]
            )
            for width in (400, 25_600)
        )
        assert small.power == power
        assert large.eigenvalue / small.eigenvalue == pytest.approx(
            64**-power, rel=0.02 if power == 1 / 2 else 0.2
        )
        if small.slack:
            assert large.slack / small.slack == pytest.approx(64**-power, rel=0.2)
        assert small.at(1e12) <= small.at(100.0)
        assert small.at(small.width_for(0.02)) <= 0.02 * (1 + 1e-6)


def test_the_least_width() -> None:
    flat = CurvatureTerm(radius=1.0, slope=1.0, width=100, eigenvalue=0.0, slack=0.0, power=0.5)
    assert flat.width_for(0.01) == WIDE
    assert width_text(flat.width_for(0.01)) == "100 or fewer"
    assert width_text(1e12) == "beyond any machine"
    assert width_text(None) == "not known"
    with pytest.raises(hf.InputError, match="gap must be"):
        flat.width_for(0.0)
