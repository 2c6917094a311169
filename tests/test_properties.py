"""Properties: sat with a counterexample that holds up, unsat where it is proved, unknown where neither."""

import re

import pytest
import torch
from torch import Tensor, nn

from holdfast import _deadline
from holdfast.cli.main import main
from holdfast.errors import InputError
from holdfast.evaluation.properties import check_property
from holdfast.external import parse_vnnlib, robustness_property, write_vnnlib
from holdfast.jobs.verify import counterexample_text


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def line() -> nn.Module:
    """``y_0 = x_0 + x_1``, ``y_1 = 0``."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        model.bias.zero_()
    return model


def box(low: float, high: float, condition: str) -> str:
    declared = "\n".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    limits = "\n".join(f"(assert (>= X_{k} {low}))\n(assert (<= X_{k} {high}))" for k in range(2))
    return f"{declared}\n{limits}\n(assert {condition})\n"


@pytest.mark.parametrize("limit", [0.499999, 0.500001, 0.9, 0.1])
def test_the_answer_for_a_linear_network_is_exact(limit: float) -> None:
    """On [0.25, 1]^2 the sum is at least 0.5: ``Y_0 <= limit`` has an answer for every limit but 0.5 itself."""
    answer = check_property(line(), parse_vnnlib(box(0.25, 1, f"(<= Y_0 {limit})")), (2,))
    assert answer.status == ("sat" if limit > 0.5 else "unsat")
    if answer.status == "unsat":
        assert answer.margin == pytest.approx(0.5 - limit, rel=1e-3)


def test_a_disjunction_needs_every_part_and_a_conjunction_one_row() -> None:
    either = "(or (and (<= Y_0 0.1)) (and (>= Y_0 1.9)))"
    assert check_property(line(), parse_vnnlib(box(0.25, 0.75, either)), (2,)).status == "unsat"
    assert check_property(line(), parse_vnnlib(box(0.25, 1, either)), (2,)).status == "sat"
    both = "(and (<= Y_0 10) (<= Y_0 0.1))"
    assert check_property(line(), parse_vnnlib(box(0.25, 1, both)), (2,)).status == "unsat"


@pytest.mark.parametrize("seed", range(6))
def test_answers_agree_with_a_fine_search(seed: int) -> None:
    model = net(seed).double()
    x = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    label = int(model(x[None]).argmax())
    answers = []
    for radius in (0.01, 0.1, 0.5):
        prop = robustness_property(x, label, outputs=3, radius=radius)
        answer = check_property(model, prop, (4,), seed=seed)
        answers.append(answer.status)
        drawn = x + radius * (2 * torch.rand(4000, 4, dtype=torch.float64) - 1)
        met = prop.is_met(drawn, model(drawn).detach())
        if answer.status == "unsat":
            assert not met.any()
            assert answer.margin > 0
        elif answer.status == "sat":
            assert prop.is_met(answer.x[None], model(answer.x[None])).all()
            torch.testing.assert_close(model(answer.x[None])[0], answer.outputs)
    order = ["unsat", "unknown", "sat"]
    assert [order.index(a) for a in answers] == sorted(order.index(a) for a in answers)


def test_what_cannot_be_decided_is_unknown() -> None:
    """The output is 0 on the whole box, whose proof needs two units to cancel: intervals of a relaxation cannot."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            s = x.sum(1, keepdim=True)
            return torch.cat(
                [torch.relu(s) + torch.relu(-s) - torch.relu(s + s) / 2 - torch.relu(-s - s) / 2, 0 * s], 1
            )

    answer = check_property(Flat(), parse_vnnlib(box(-1, 1, "(<= Y_0 -0.001)")), (2,), seconds=0.001)
    assert answer.status == "unknown"
    assert answer.open_parts == 1
    assert answer.out_of_time
    assert "time was over" in answer.why
    assert "more seconds may decide" in answer.why


class Smooth(nn.Module):
    """``tanh(x_0 + x_1) - tanh(x_0 + x_1) = 0``, which no method here sees."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.sum(1, keepdim=True)
        return torch.cat([torch.tanh(s) + torch.tanh(-s), 0 * s], 1)


def test_more_seconds_are_advised_only_where_they_can_help() -> None:
    prop = parse_vnnlib(box(-1, 1, "(<= Y_0 -0.001)"))
    answer = check_property(Smooth(), prop, (2,), seconds=600.0)
    assert answer.status == "unknown"
    assert not answer.out_of_time
    assert "more seconds do not help" in answer.why
    assert "1 of 1 parts are open" in answer.why


def test_kinks_are_cut_where_bounds_do_not_suffice() -> None:
    """The same with rectifiers, whose sides decide: proved, and just above it refuted."""

    class Kinked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            s = x.sum(1, keepdim=True)
            return torch.cat([torch.relu(s) - torch.relu(-s) - s, 0 * s], 1)

    assert check_property(Kinked(), parse_vnnlib(box(-1, 1, "(<= Y_0 -0.001)")), (2,)).status == "unsat"


class Clock:
    """A clock that goes on by one second each time it is read; ``late`` is what has been read of it since an end."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("seconds", [40.0, 400.0])
def test_the_time_holds_over_a_thousand_boxes(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every loop reads the clock: with one that goes by readings, hardly any come after the end, whichever phase it falls in."""
    clock = Clock()
    monkeypatch.setattr(_deadline, "time", clock)
    lines = [box(-1, 1, "(<= Y_0 -0.001)").partition("(assert")[0]]
    cases = " ".join(
        f"(and (>= X_0 {-1 + k / 1000}) (<= X_0 1) (>= X_1 -1) (<= X_1 1) (<= Y_0 -0.001))"
        for k in range(1000)
    )
    prop = parse_vnnlib(f"{lines[0]}(assert (or {cases}))")
    answer = check_property(Smooth(), prop, (2,), seconds=seconds)
    assert answer.status == "unknown"
    assert answer.out_of_time
    assert (answer.parts, 1 <= answer.open_parts <= 1000) == (1000, True)
    assert clock.now <= seconds + 10


def test_a_network_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="about 2 inputs, got a network of 4"):
        check_property(net(), parse_vnnlib(box(0, 1, "(<= Y_0 0)")), (4,))


def test_a_counterexample_is_written_with_all_its_digits() -> None:
    text = counterexample_text(
        torch.tensor([0.1, 2.0], dtype=torch.float64), torch.tensor([1 / 3], dtype=torch.float64)
    )
    assert text == "((X_0 0.1)\n (X_1 2.0)\n (Y_0 0.3333333333333333))\n"


@pytest.fixture
def onnx_file(tmp_path):
    """The linear network as a file."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    weight = onnx.helper.make_tensor("w", 1, [2, 2], [1.0, 1.0, 0.0, 0.0])
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 2])], [value("y", 1, [1, 2])], [weight])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "n.onnx",
    )
    return tmp_path / "n.onnx"


@pytest.mark.parametrize(("limit", "status", "code"), [(0.4, "unsat", 0), (0.6, "sat", 1)])
def test_the_command_answers_with_a_line_and_an_exit_status(
    capsys, onnx_file, tmp_path, limit, status, code
) -> None:
    path = tmp_path / "p.vnnlib"
    path.write_text(box(0.25, 1, f"(<= Y_0 {limit})"))
    found = tmp_path / "found.txt"
    argv = ["verify", str(path), "--model", str(onnx_file), "--quiet", "--counterexample", str(found)]
    assert main(argv) == code
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == status
    if status == "sat":
        numbers = {
            name: float(value) for name, value in re.findall(r"\((\w+_\d) ([^)]+)\)", found.read_text())
        }
        assert numbers["X_0"] + numbers["X_1"] == pytest.approx(numbers["Y_0"])
        assert numbers["Y_0"] <= limit


def test_the_line_of_an_unknown_construct_is_named(capsys, onnx_file, tmp_path) -> None:
    path = tmp_path / "p.vnnlib"
    path.write_text(box(0, 1, "(<= Y_0 0)") + "(check-sat-assuming Y_0)\n")
    assert main(["verify", str(path), "--model", str(onnx_file), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "line 10" in error
    assert error.count("\n") == 1
    assert main(["verify", str(path), "--model", "none.onnx"]) == 2


def test_properties_go_out_and_come_back(tmp_path) -> None:
    prop = robustness_property(torch.tensor([0.2, 0.9]), 0, outputs=2, radius=0.1, bounds=(0.0, 1.0))
    write_vnnlib(tmp_path / "p.vnnlib", prop)
    again = parse_vnnlib((tmp_path / "p.vnnlib").read_text())
    assert check_property(line(), again, (2,)).status == check_property(line(), prop, (2,)).status == "unsat"


def test_the_command_says_why_it_does_not_know_and_what_it_did_not_take_from_the_file(
    tmp_path, capsys
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    ones = onnx.helper.make_tensor("w", 10, [2, 1], [1.0, 1.0])
    zeros = onnx.helper.make_tensor("z", 10, [1, 1], [0.0])
    nodes = [
        make("MatMul", ["x", "w"], ["s"]),
        make("Neg", ["s"], ["n"]),
        make("Tanh", ["s"], ["a"]),
        make("Tanh", ["n"], ["b"]),
        make("Add", ["a", "b"], ["t"]),
        make("MatMul", ["s", "z"], ["o"]),
        make("Concat", ["t", "o"], ["y"], axis=1),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", 10, [1, 2])], [info("y", 10, [1, 2])], [ones, zeros]
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "n.onnx")
    (tmp_path / "p.vnnlib").write_text(box(-1, 1, "(<= Y_0 -0.001)"))
    status = main(
        [
            "verify",
            str(tmp_path / "p.vnnlib"),
            "--model",
            str(tmp_path / "n.onnx"),
            "--quiet",
            "--seconds",
            "600",
        ]
    )
    captured = capsys.readouterr()
    assert status == 3
    first, second = captured.out.splitlines()
    assert first == "unknown"
    assert "more seconds do not help" in second
    assert "half precision" in captured.err
