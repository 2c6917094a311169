"""Every parameter of every public function and class has a rule, and no rule lets a wrong value through with anything but a sentence.

Values are fed to each rule alone, and to calls that are right in everything else where these are quick. `wrong_calls` has further calls,
of the functions that take seconds.
"""

import importlib
import inspect
import math
from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast._rules import FUNCTION
from holdfast.errors import HoldfastError

MODULES = [
    "holdfast",
    *(
        f"holdfast.{name}"
        for name in (
            "data",
            "networks",
            "families",
            "theory",
            "theory.capacity",
            "attacks",
            "losses",
            "threats",
            "record.run",
            "lab.capacity",
            "verification",
            "evaluation",
            "external",
        )
    ),
]

# Public, and yet without rules, by reason.
CHECKS_ITSELF = {  # says in its own words what may be given
    "Dataset",
    "Split",
    "as_attack",
    "as_loss",
    "as_threat",
    "optimal_robust_loss.kernel",
    "checked_outputs",
    "Activation",
}
INNER = {  # what attacks, losses and families of one's own are written with: called in every step, on tensors of the library's making
    "Family",
    "NetworkFacts",
    "FamilyCurvature",
    "Sizes",
    "Factor",
    "Pass",
    "Search",
    "Expanded",
    "TwoLayerCurvature",
    "DeepCurvature",
    "Goal",
    "attacking",
    "in_mode",
    "broken_claim",
    "correct",
    "finite",
    "one_hot",
    "predictions",
    "signs",
    "is_ball",
    "ends_in_softmax",
    "Case",
    "Condition",
    "Property",
    "ImportedNetwork",
    "Part",
}
RESULTS = {  # made by the library and only read
    "SmoothedCertificate",
    "Verification",
    "AttackResult",
    "Evaluation",
    "Certificate",
    "Diagnosis",
    "Run",
    "Figures",
    "Separation",
    "KernelFigures",
    "RobustLossCurve",
    "CapacityBound",
    "Attempt",
    "Bracket",
    "Capacity",
    "Widths",
    "ClassAccuracy",
    "Stage",
}


def is_public(value, module):
    """A function or class of the library that is no exception; of modules that re-export nothing, only their own."""
    if not (inspect.isclass(value) or inspect.isfunction(value)) or not value.__module__.startswith(
        "holdfast"
    ):
        return False
    own = hasattr(module, "__path__") or value.__module__ == module.__name__
    return own and not (inspect.isclass(value) and issubclass(value, Exception))


def public():
    found = {}
    for module in map(importlib.import_module, MODULES):
        names = getattr(module, "__all__", [name for name in dir(module) if not name.startswith("_")])
        values = [getattr(module, name) for name in names]
        found |= {value.__qualname__: value for value in values if is_public(value, module)}
    return found


PUBLIC = public()


def rules_of(value):
    return getattr(value, "rules", None) or getattr(getattr(value, "__init__", None), "rules", {}) or {}


def parameters(value):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, one in inspect.signature(value).parameters.items() if one.kind not in kinds]


def test_every_public_parameter_has_a_rule():
    without = {
        f"{name}.{one}"
        for name, value in PUBLIC.items()
        if not inspect.isabstract(value) and name not in CHECKS_ITSELF | INNER | RESULTS
        for one in parameters(value)
        if one not in rules_of(value)
    }
    assert without - CHECKS_ITSELF == set()


def test_what_is_excepted_exists_and_results_are_plain_records():
    named = {name.partition(".")[0] for name in CHECKS_ITSELF | INNER | RESULTS}
    assert named <= PUBLIC.keys()
    assert all(is_dataclass(PUBLIC[name]) for name in RESULTS)


class Odd:
    """Nothing that any parameter is for."""


WRONG = {
    "an object": Odd(),
    "a class": Odd,
    "text": "no such thing",
    "empty text": "",
    "bytes": b"1",
    "a list of text": ["a"],
    "an empty list": [],
    "a dictionary": {"a": 1},
    "a set": {1, 2},
    "none": None,
    "true": True,
    "minus one": -1,
    "zero": 0,
    "one and a half": 1.5,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "huge": 10**30,
    "huge float": 1e300,
    "complex": 1 + 2j,
    "numpy": np.ones((3, 3)),
    "numpy of objects": np.array([object()]),
    "numpy of text": np.array(["a"]),
    "numpy nan": np.float64("nan"),
    "a tensor": torch.ones(3),
    "no rows": torch.empty(0, 4),
    "float64": torch.ones(6, 4, dtype=torch.float64),
    "half": torch.ones(6, 4).half(),
    "nan rows": torch.full((6, 4), math.nan),
    "wrong features": torch.ones(6, 5),
    "whole numbers": torch.ones(6, 4, dtype=torch.long),
    "sparse": torch.ones(6, 4).to_sparse(),
    "boolean": torch.ones(4, dtype=torch.bool),
    "a scalar": torch.tensor(2.0),
    "a function": lambda *a: 1,
    "a module": nn.ReLU(),
    "another network": nn.Linear(5, 3),
    "a loss of torch": nn.CrossEntropyLoss(),
}

RULED = [(name, one) for name, value in PUBLIC.items() for one in rules_of(value)]


def refuses(call):
    """Whether the call was refused, in one sentence; it may also work."""
    try:
        call()
    except HoldfastError as error:
        said = str(error)
        assert "\n" not in said
        assert said.endswith((".", "?"))
        assert len(said) < 600
        return True
    return False


@pytest.mark.parametrize("name", sorted({name for name, _ in RULED}))
def test_a_rule_takes_a_value_or_refuses_it_in_a_sentence(name):
    for one, rule in rules_of(PUBLIC[name]).items():
        refused = [what for what, value in WRONG.items() if refuses(lambda r=rule, n=one, v=value: r(n, v))]
        assert "an object" in refused, one
        assert len(refused) >= 5, one


def x():
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


def y():
    return torch.tensor([0, 1, 0, 1, 0, 1])


def data():
    return hf.data.from_tensors(x(), y(), (0.0, 1.0), validation=0, test=0)


# Calls that are right and quick; each parameter in turn is then given every wrong value.
GOOD = {
    "PGD": {"steps": 2},
    "FGSM": {},
    "APGD": {},
    "FAB": {},
    "Square": {},
    "CarliniWagner": {},
    "DeepFool": {},
    "MultiTarget": {"attack": hf.PGD(steps=1)},
    "RandomAttack": {},
    "Transfer": {"surrogate": nn.Linear(4, 2), "attack": hf.PGD(steps=1)},
    "ExpectedGradient": {"attack": hf.PGD(steps=1)},
    "CrossEntropy": {},
    "Huber": {},
    "LpBall": {"norm": "2", "radius": 0.1},
    "SphereSlice": {"radius": 0.1},
    "parse_threat": {"text": "linf:0.1"},
    "CustomThreat": {"project": lambda points, x: x, "radius_hint": 1.0},
    "TwoLayer": {"features": 4, "classes": 2, "width": 8},
    "Dense": {"features": 4, "classes": 2, "width": 8, "depth": 2},
    "MNISTConv": {"size": 8},
    "PreActResNet": {"classes": 3, "width": 2, "blocks": (1,)},
    "WideResNet": {"classes": 3, "depth": 10, "widen": 1},
    "CNN7": {"classes": 3, "size": 4, "width": 1},
    "ViT": {"classes": 3, "size": 4, "dim": 4, "depth": 1, "heads": 1},
    "Normalize": {"mean": (0.5,), "std": (0.5,)},
    "Linearised": {"model": nn.Linear(4, 2)},
    "LogOutputs": {"model": nn.Linear(4, 2)},
    "activation_named": {"name": "relu"},
    "loss_named": {"name": "hinge"},
    "KernelSpec": {},
    "ntk": {"spec": hf.theory.KernelSpec()},
    "NTK": {"spec": hf.theory.KernelSpec()},
    "spec_of": {"model": hf.networks.TwoLayer(4, 2, 8)},
    "kernel_drift": {"now": torch.eye(6), "start": torch.eye(6)},
    "kernel_alignment": {"kernel": torch.eye(6), "y": y(), "classes": 2},
    "empirical_ntk": {"model": nn.Linear(4, 2), "x1": x()},
    "from_tensors": {"x": x(), "y": y(), "validation": 0, "test": 0},
    "on_sphere": {"data": data()},
    "with_features": {"data": data(), "features": "pixels"},
    "spheres": {"examples": 20, "dimension": 3},
    "separation": {"x": x(), "y": y(), "norm": "2", "radius": 0.1},
    "load": {"name": "digits"},
    "forced_width": {"rho": 0.5, "examples": 10, "dimension": 3},
    "orders": {"rho": 0.5, "examples": 10, "dimension": 3},
    "shattered_coordinates": {"rho": 0.5, "dimension": 3},
    "robustness_ratio": {"data": data(), "threat": "l2:0.1"},
    "radius_for": {"data": data(), "norm": "l2", "rho": 0.5},
    "robustness_property": {"x": x()[0], "label": 0, "outputs": 2, "radius": 0.1},
    "parse_vnnlib": {"text": "(declare-const X_0 Real)"},
    "read_vnnlib": {"path": "none.vnnlib"},
    "load_onnx": {"path": "none.onnx"},
    "load_model": {"source": "none.onnx"},
    "read_weights": {"path": "none.pt"},
    "read_summary": {"folder": "none"},
    "read_figures": {"folder": "none"},
    "idx": {"folder": "none"},
    "npz": {"file": "none.npz"},
    "cifar": {"folder": "none"},
    "image_folder": {"folder": "none"},
    "from_dataset": {"train": [(torch.ones(2), 0), (torch.zeros(2), 1)], "validation": 0.0},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_call_with_one_wrong_value_works_or_is_refused_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = PUBLIC[name]
    assert GOOD[name].keys() <= set(parameters(function))
    for one in parameters(function):
        for what, value in WRONG.items():
            if callable(value) and rules_of(function)[one].what.startswith(FUNCTION.what):
                continue  # a function that fails when it is called is the caller's
            try:
                refuses(lambda n=one, v=value: function(**(GOOD[name] | {n: v})))
            except Exception as error:
                raise AssertionError(f"{name}({one}={what}): {type(error).__name__}: {error}") from error
