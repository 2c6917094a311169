"""Calls that are wrong, each in one way, and calls that are unusual but clear, beside the plain ones they mean."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import holdfast as hf
from holdfast.lab.reproduce.run import reproduce
from holdfast.lab.sweep.backends import in_processes, in_turn, on_ray
from holdfast.lab.sweep.grid import read_grid
from holdfast.lab.sweep.run import run_sweep
from holdfast.theory import capacity as width_bounds
from settings import grouped

Call = Callable[[], Any]


@functools.cache
def x() -> torch.Tensor:
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


def y() -> torch.Tensor:
    return torch.tensor([0, 1, 0, 1, 0, 1])


@functools.cache
def net() -> nn.Module:
    return hf.networks.TwoLayer(4, 2, 8, seed=1)


@functools.cache
def ball() -> hf.LpBall:
    return hf.LpBall("inf", 0.01, bounds=(0.0, 1.0))


@functools.cache
def data() -> hf.Dataset:
    return hf.data.from_tensors(x(), y(), (0.0, 1.0), validation=0, test=0)


def train(model: Any = None, of: Any = None, threat: Any = None, **settings: Any) -> hf.Run:
    settings = {
        "epochs": 1,
        "attack": hf.PGD(steps=1),
        "progress": False,
        "tighten": 1,
        "allow_incompatible": True,
    } | settings
    model = hf.networks.TwoLayer(4, 2, 8, seed=1) if model is None else model
    return hf.train(
        model, data() if of is None else of, ball() if threat is None else threat, **grouped(settings)
    )


def run(
    model: Any = None, xs: Any = None, ys: Any = None, threat: Any = None, **settings: Any
) -> hf.AttackResult:
    return hf.PGD(steps=2).run(
        net() if model is None else model,
        x() if xs is None else xs,
        y() if ys is None else ys,
        ball() if threat is None else threat,
        **settings,
    )


def of(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """``function(model, x, y, threat, ...)`` with the usual four where nothing else is given."""

    def call(model: Any = None, xs: Any = None, ys: Any = None, threat: Any = None, **settings: Any) -> Any:
        usual = (net() if model is None else model, x() if xs is None else xs, y() if ys is None else ys)
        last = () if function is hf.smooth else (ball() if threat is None else threat,)
        return function(*usual, *last, **(fixed | settings))

    return call


evaluate = of(hf.evaluate, attacks="clean", verify=None)
verify = of(hf.verify)
smooth = of(hf.smooth, sigma=0.1, samples=10, selection=5)
certify = of(
    lambda model, xs, ys, threat, **more: hf.certify(
        model,
        more.pop("initial", net()),
        xs,
        ys,
        threat,
        more.pop("attack", hf.PGD(steps=1)),
        more.pop("radius", 1.0),
        **({"tighten": 1} | more),
    )
)


diagnose = of(hf.diagnose, initial=net())


def optimal(
    kernel: Any = None, xs: Any = None, ys: Any = None, threat: Any = None, radii: Any = (1.0,), **more: Any
) -> Any:
    return hf.theory.optimal_robust_loss(
        hf.theory.KernelSpec(constant=0.5) if kernel is None else kernel,
        x() if xs is None else xs,
        y() if ys is None else ys,
        ball() if threat is None else threat,
        radii,
        **({"rounds": 1} | more),
    )


@functools.cache
def frozen() -> nn.Module:
    return nn.Linear(4, 2).requires_grad_(False)


@functools.cache
def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def halved() -> nn.Module:
    return hf.networks.TwoLayer(4, 2, 8, seed=1).half()


def replaced() -> nn.Module:
    """With a forward that computes with what no copy of the module holds."""
    net = hf.networks.TwoLayer(4, 2, 8, seed=1)
    weight = torch.linspace(-1, 1, 4)[None]
    net.forward = lambda x: x @ weight.T
    return net


def one_hot() -> torch.Tensor:
    return torch.eye(2)[y()]


def with_nan() -> torch.Tensor:
    broken = x().clone()
    broken[2, 1] = float("nan")
    return broken


# What no function that takes examples and labels takes.
EXAMPLES: dict[str, dict[str, Any]] = {
    "x is text": {"xs": "examples"},
    "x has no rows": {"xs": torch.empty(0, 4)},
    "x has NaN": {"xs": with_nan()},
    "x has infinity": {"xs": x() / 0},
    "x has whole numbers": {"xs": torch.ones(6, 4, dtype=torch.long)},
    "x is one example": {"xs": x()[0]},
    "x is on the meta device": {"xs": torch.empty(6, 4, device="meta")},
    "x has objects": {"xs": np.array([[object()] * 4] * 6)},
    "x is complex": {"xs": x().to(torch.complex64)},
    "x has more rows than y": {"xs": torch.cat([x(), x()])},
    "y is float": {"ys": y().float()},
    "y is regression": {"ys": torch.rand(6)},
    "y is one-hot": {"ys": one_hot()},
    "y is multi-label": {"ys": torch.ones(6, 2)},
    "y is boolean": {"ys": y().bool()},
    "y is negative": {"ys": y() - 1},
    "y is out of range": {"ys": y() + 7},
    "y is text": {"ys": ["cat", "dog"] * 3},
    "y is on the meta device": {"ys": torch.zeros(6, dtype=torch.long, device="meta")},
    "y is too short": {"ys": y()[:4]},
}
MODELS: dict[str, dict[str, Any]] = {
    "the model is a function": {"model": lambda xs: xs @ torch.ones(4, 2)},
    "the model is a class": {"model": nn.Linear},
    "the model is a path": {"model": "net.onnx"},
    "the model takes other features": {"model": nn.Linear(5, 2)},
    "the model has a wrong output": {"model": nn.Flatten(0)},
    "the model is on the meta device": {"model": nn.Linear(4, 2, device="meta")},
    "the model takes images": {"model": nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2))},
}
THREATS: dict[str, dict[str, Any]] = {
    "the threat is a number": {"threat": 0.1},
    "the threat is misspelt": {"threat": "lnf:0.1"},
    "the threat has no radius": {"threat": "linf"},
    "the threat has a wrong radius": {"threat": "linf:-1"},
    "the threat has a huge radius": {"threat": "linf:1e999999999"},
    "the threat is a class": {"threat": hf.LpBall},
    "the threat is a tuple": {"threat": ("inf", 0.1)},
}


def everywhere() -> dict[str, Call]:
    """Wrong examples, labels, models and threats, for each function that takes them."""
    functions = {"run": run, "evaluate": evaluate, "verify": verify, "smooth": smooth, "certify": certify}
    found: dict[str, Call] = {}
    for name, function in functions.items():
        cases = EXAMPLES | MODELS | (THREATS if function is not smooth else {})
        for what, arguments in cases.items():
            found[f"{name}: {what}"] = functools.partial(function, **arguments)
    for name, function in {
        "verify": verify,
        "certify": certify,
        "train": train,
        "diagnose": diagnose,
    }.items():
        for what, model in {"has a forward of its own": replaced, "is in half precision": halved}.items():
            found[f"{name}: the model {what}"] = lambda f=function, made=model: f(model=made())
    for what, arguments in {**EXAMPLES, **THREATS}.items():
        if what == "y is out of range":
            continue  # without a model, the labels say how many classes there are
        found[f"optimal_robust_loss: {what}"] = functools.partial(optimal, **arguments)
    for what, arguments in {**MODELS, **THREATS}.items():
        found[f"train: {what}"] = functools.partial(train, **arguments)
    return found


def settings() -> dict[str, Call]:
    """One wrong setting each."""
    found: dict[str, Call] = {}

    def add(who: str, function: Callable[..., Any], /, **cases: list[Any]) -> None:
        for setting, values in cases.items():
            for value in values:
                text = (
                    repr(value)
                    if isinstance(value, str | int | float | list | tuple | type(None))
                    else type(value).__name__
                )
                found[f"{who}({setting}={text})"] = functools.partial(function, **{setting: value})

    count = [0, -1, 1.5, None, "many", True]
    seed = [-1, 10**20, 0.5, "zero"]
    torch_loss = nn.CrossEntropyLoss()
    add(
        "train",
        train,
        epochs=count,
        batch_size=[0, 1.5, "all"],
        learning_rate=[0, -1, float("nan"), float("inf"), 1e300, 1e30, "fast"],
        momentum=[1, 2, -0.1, "some"],
        weight_decay=[-1, float("inf")],
        schedule=["cosin", 1],
        seed=seed,
        optimizer=["sdg", 3, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)],
        loss=[torch_loss, "focal", hf.CrossEntropy, 1],
        attack=["pdg", hf.PGD, 10, []],
        evaluation_attack=["pdg"],
        final_attack=["pdg"],
        parameter_radius=[0, -1, float("inf"), "large"],
        tighten=[-1, 1.5],
        evaluate_every=[0],
        kernel_examples=[1, 1.5],
        best_by=["loss"],
        precision=["float32", 64],
        devices=[0],
        accelerator=["quantum", 3],
        trace_every=[0],
        certificate_radius=[0],
        out=[3],
        name=[3],
        start=["kernal", 3],
        resume=[1],
        example_weights=[
            torch.ones(6),
            torch.ones(5) / 5,
            -torch.ones(6) / 6,
            "even",
            torch.full((6,), float("nan")),
        ],
        project=["yes"],
        progress=["bar"],
    )
    add("train", lambda of: train(of=of), of=[(x(), y()), x(), "digits", [1, 2]])
    found["train: batch norm and a last batch of one"] = lambda: train(model=batch_norm(), batch_size=5)
    found["train: batch norm and batches of one"] = lambda: train(model=batch_norm(), batch_size=1)
    found["train: frozen"] = lambda: train(model=frozen())
    found["train: resumes nothing"] = lambda: train(resume=True)
    add(
        "evaluate",
        evaluate,
        attacks=[[], "standart", 3, [3], ["pdg"], None],
        verify=["crwn", 3],
        loss=[torch_loss, "focal"],
        batch_size=count[:3],
        examples=[0, 1.5],
        seed=seed,
        radii=[torch.ones(3), "small", -torch.ones(6)],
        verify_seconds=[-1, "long"],
        drop_broken=["no"],
        progress=[3],
    )
    add(
        "verify",
        verify,
        method=["crwn", None, 3],
        steps=count[:3],
        seconds=[-1, float("nan"), "long"],
        progress=[1],
    )
    add(
        "smooth",
        smooth,
        sigma=[0, -1, float("inf"), "much"],
        samples=count[:3],
        selection=[0],
        alpha=[0, 1, 2],
        batch_size=[0],
        seed=seed,
    )
    add(
        "certify",
        certify,
        radius=[0, -1, float("nan"), "R", [], [1.0, -1.0]],
        tighten=[-1, 1.5],
        loss=[torch_loss],
        attack=["pdg", None],
        seed=seed[:2],
        initial=[3, {}, nn.Linear(2, 2), hf.networks.TwoLayer(4, 2, 8).to("meta")],
        batch_size=[0],
        example_weights=[torch.ones(6), torch.ones(2) / 2, torch.ones(6, device="meta")],
        curvature=[3],
        per_unit=["yes"],
    )
    add(
        "run",
        run,
        loss=[torch_loss, "focal"],
        targets=[y(), y() + 5, "next", y().to("meta")],
        radii=[torch.ones(3), torch.ones(6, device="meta")],
        mode=["test"],
        seed=seed,
        generator=[3],
    )
    add(
        "plan",
        lambda **more: hf.plan(data(), ball(), progress=False, **more),
        radii=[[], [-1.0], "wide", 3],
        target_loss=[0, "small"],
        target_gap=[-1],
        examples=[1, 1.5],
        loss=[torch_loss],
        attack=["pdg"],
        seed=seed[:2],
        batch_size=[0],
        model=[nn.Linear(5, 2), 3, lambda xs: xs],
    )
    found["plan: data are a pair"] = lambda: hf.plan((x(), y()), ball())
    found["plan: no threat"] = lambda: hf.plan(data(), None)
    add(
        "optimal_robust_loss",
        optimal,
        radii=[[], [-1.0], [float("inf")], 1.0, "wide"],
        tolerance=[0],
        rounds=[0],
        loss=[torch_loss],
        attack=["pdg"],
        kernel=[3, "relu"],
        classes=[1, 1.5],
        seed=seed[:2],
    )
    add(
        "PGD",
        hf.PGD,
        steps=count,
        step_size=[0, -1, "big", float("nan")],
        restarts=count[:3],
        start=["near by", 1],
        loss=[torch_loss, "focal"],
        momentum=[-1],
        step_rule=["fast"],
        keep_best=[2, "yes"],
    )
    add("APGD", hf.APGD, steps=count[:3], loss=["dlrr", torch_loss], targets=[0], rho=[0, 1], start=["near"])
    add("FGSM", hf.FGSM, step_size=[0], start=["there"])
    add("FAB", hf.FAB, overshoot=[0.5, 3], backward=[-1], pull=[2], patience=[0], targets=[0])
    add("Square", hf.Square, queries=[0], share=[0, 2], image=[(1, 2), 3, (1, 0, 4)])
    add(
        "CarliniWagner",
        hf.CarliniWagner,
        steps=[0],
        searches=[None],
        constant=[0],
        rate=[-1],
        confidence=[-1],
    )
    add("DeepFool", hf.DeepFool, steps=[0], classes=[0], overshoot=[-1])
    add("RandomAttack", hf.RandomAttack, samples=[0, 1.5])
    add(
        "ExpectedGradient",
        lambda **more: hf.ExpectedGradient(**({"attack": hf.PGD()} | more)),
        attack=["pdg", 3],
        samples=[0],
    )
    add(
        "Transfer",
        lambda **more: hf.Transfer(**({"surrogate": net(), "attack": hf.PGD()} | more)),
        surrogate=[3],
        attack=[None],
    )
    add(
        "MultiTarget", lambda **more: hf.MultiTarget(**({"attack": hf.PGD()} | more)), attack=[3], classes=[0]
    )
    add(
        "LpBall",
        lambda **more: hf.LpBall(**({"norm": "inf", "radius": 0.1} | more)),
        norm=["3", 3, None, [2]],
        radius=[-1, float("nan"), "small", None, torch.ones(2)],
        bounds=[1.0, (0,), (1, 0), ("a", "b"), (float("nan"), 1)],
        fixed=[torch.ones(4), torch.ones(4).bool(), torch.ones(4, device="meta").bool(), "first"],
        sparsity=[0, 2, 0.1],
    )
    add("SphereSlice", lambda radius: hf.SphereSlice(radius), radius=[-1, "small", float("inf")])
    add(
        "CustomThreat",
        lambda **more: hf.CustomThreat(**({"project": lambda p, q: p, "radius_hint": 1.0} | more)),
        project=[3],
        radius_hint=[0, "one"],
        name=[3],
    )
    add("parse_threat", lambda text: hf.parse_threat(text), text=["", "l5:1", 3, None, "linf:nan"])
    add("CrossEntropy", hf.CrossEntropy, label_smoothing=[1, -0.1, "some"])
    add("Huber", hf.Huber, delta=[0, "wide"])
    add(
        "digits",
        hf.data.digits,
        classes=[[], [3], [3, 3], [3, 12], "38", 3],
        features=["pixel"],
        validation=[1, -0.1, "none"],
        seed=seed[:2],
        dtype=[torch.float16, "int"],
    )
    add(
        "spheres",
        hf.data.spheres,
        examples=[0, 3, 1.5],
        dimension=[1],
        classes=[1],
        separation=[0, 3],
        spread=[1],
        clusters=[0],
    )
    add("forced", hf.data.forced, examples=[1], dimension=[0])
    add("shattering", hf.data.shattering, pairs=[0], distance=[0], labelling=[-1, 10**9])
    add("separated", hf.data.separated, examples=[1], separation=[2])
    add(
        "from_tensors",
        lambda **more: hf.data.from_tensors(**({"x": x(), "y": y()} | more)),
        x=[torch.ones(6), "x", with_nan(), torch.ones(0, 4), torch.ones(6, 4, device="meta")],
        y=[y() - 1, one_hot(), torch.rand(6), y()[:3]],
        bounds=[(1, 0), 3, (0.4, 0.6), (0, 1, 2)],
        fixed=[torch.ones(3).bool(), "none"],
        classes=[[0, 9]],
        split=[3],
        validation=[2],
        name=[3],
    )
    add("load", lambda name: hf.data.load(name), name=["digit", "missing.npz", 3, ""])
    add("load digits", lambda **more: hf.data.load("digits", **more), foo=[1], clases=[[3, 8]])
    add("npz", lambda file: hf.data.npz(file), file=["missing.npz", 3])
    add("idx", lambda folder: hf.data.idx(folder), folder=["missing", None])
    add(
        "TwoLayer",
        lambda **more: hf.networks.TwoLayer(**({"features": 4, "classes": 2, "width": 8} | more)),
        features=[0, "four"],
        classes=[1, 2.5],
        width=[0, 7, 1.5, 4 * 10**12],
        activation=["rellu", 3, nn.ReLU()],
        outputs=["sparse"],
        scale=["small", float("nan")],
        center=[torch.ones(3), "mean"],
        constant=["half"],
        seed=seed,
        paired=["no"],
    )
    add(
        "Dense",
        lambda **more: hf.networks.Dense(**({"features": 4, "classes": 2, "width": 8, "depth": 2} | more)),
        depth=[0, 1.5],
        width=[0, 10**9],
        output=["sparse"],
        activation=["rellu"],
    )
    add("MNISTConv", hf.networks.MNISTConv, classes=[1], size=[0, 30], channels=[0])
    add("Linearised", lambda model: hf.networks.Linearised(model), model=[3, nn.ReLU()])
    add(
        "KernelSpec",
        hf.theory.KernelSpec,
        depth=[0],
        trained=["some"],
        activation=["rellu"],
        scale=[float("inf")],
        output_variance=[-1],
    )
    add("ntk", lambda spec: hf.theory.ntk(spec), spec=[nn.Linear(4, 2), 3, "relu"])
    add(
        "empirical_ntk",
        lambda **more: hf.theory.empirical_ntk(**({"model": net(), "x1": x()} | more)),
        model=[3, nn.Linear(5, 2)],
        x1=["x", torch.ones(4), with_nan()],
        outputs=["sum"],
        block=[0],
    )
    add(
        "smallest_width",
        lambda **more: hf.capacity.smallest_width(**({"data": data(), "threat": ball()} | more)),
        data=[(x(), y())],
        threat=["l3:1"],
        network=["deep"],
        widths=[[], [0], 3],
        seeds=[0, [], "all"],
        restarts=[0],
        steps=[0],
        parts=[0],
    )
    add(
        "capacity.bounds",
        lambda **more: width_bounds.bounds(**({"data": data(), "threat": ball()} | more)),
        hidden_layers=[0, 3],
        threat=[3],
    )
    add(
        "run_sweep",
        lambda **more: run_sweep(**({"grid": read_grid([])[0], "out": "sweep", "backend": in_turn} | more)),
        grid=[3, "width"],
        out=[3, ""],
        backend=["ray", 3],
        threads=[0],
        progress=["bar"],
    )
    add("read_grid", lambda argv: read_grid(argv), argv=[3, "--width", [3]])
    add("in_processes", lambda processes: in_processes(processes), processes=[0, -1, "all"])
    add("on_ray", lambda address: on_ray(address), address=[3])
    add(
        "reproduce",
        reproduce,
        names=["width", ["none"], 3],
        scale=["quick"],
        out=[3],
        overwrite=[1],
        progress=["bar"],
        finished=[3],
    )
    add("load_model", lambda source: hf.load_model(source), source=["missing.onnx", 3])
    return found


def wrong() -> dict[str, Call]:
    return everywhere() | settings()


def unusual(folder: Path) -> dict[str, tuple[Call, Call]]:
    """Calls that are unusual but clear, each with the plain one it means; both give the same."""
    kernel = hf.theory.KernelSpec(constant=0.5)
    wide = x().double().numpy()
    file = folder / "small.npz"
    np.savez(file, x=wide, y=y().numpy())

    def loss(done: hf.Run) -> float:
        return float(done.metrics[-1]["online_loss"])

    def same_data(**changed: Any) -> torch.Tensor:
        return hf.data.from_tensors(**({"x": x(), "y": y()} | changed)).x

    labels = {
        f"{name}: labels of {kind}": (functools.partial(function, ys=y().to(kind)), function)
        for name, function in {
            "run": lambda **a: run(**a).x,
            "verify": lambda **a: verify(**a).margins,
            "evaluate": lambda **a: evaluate(**a).loss,
        }.items()
        for kind in (torch.uint8, torch.int8, torch.int32)
    }
    return labels | {
        "run: numpy": (lambda: run(xs=x().numpy(), ys=y().numpy()).x, lambda: run().x),
        "run: lists": (lambda: run(xs=x().tolist(), ys=y().tolist()).x, lambda: run().x),
        "run: float64": (lambda: run(xs=x().double()).x, lambda: run().x),
        "run: threat as text": (
            lambda: run(threat="linf:0.01").x,
            lambda: run(threat=hf.LpBall("inf", 0.01)).x,
        ),
        "run: loss by name": (lambda: run(loss="hinge").loss, lambda: run(loss=hf.Hinge()).loss),
        "run: numpy seed": (lambda: run(seed=np.int64(3)).x, lambda: run(seed=3).x),
        "verify: numpy": (lambda: verify(xs=wide, ys=y().numpy()).margins, lambda: verify().margins),
        "verify: threat as text": (
            lambda: verify(threat="linf:1/100").margins,
            lambda: verify(threat=hf.LpBall("inf", 0.01)).margins,
        ),
        "smooth: float64": (lambda: smooth(xs=x().double()).radius, lambda: smooth().radius),
        "evaluate: numpy": (lambda: evaluate(xs=wide, ys=y().numpy()).loss, lambda: evaluate().loss),
        "evaluate: attacks by name": (
            lambda: evaluate(attacks=["pgd"]).x,
            lambda: evaluate(attacks=[hf.PGD()]).x,
        ),
        "evaluate: one attack": (
            lambda: evaluate(attacks=hf.PGD()).x,
            lambda: evaluate(attacks=[hf.PGD()]).x,
        ),
        "certify: attack by name": (
            lambda: certify(attack="pgd").lower_bound,
            lambda: certify(attack=hf.PGD()).lower_bound,
        ),
        "certify: numpy": (
            lambda: certify(xs=wide, ys=y().numpy().astype(np.uint8)).lower_bound,
            lambda: certify().lower_bound,
        ),
        "certify: numpy radius": (
            lambda: certify(radius=np.float32(1.0)).lower_bound,
            lambda: certify(radius=1.0).lower_bound,
        ),
        "train: attack by name": (lambda: loss(train(attack="fgsm")), lambda: loss(train(attack=hf.FGSM()))),
        "train: loss by name": (lambda: loss(train(loss="squared")), lambda: loss(train(loss=hf.Squared()))),
        "train: threat as text has the data's box": (
            lambda: loss(train(threat="linf:0.01")),
            lambda: loss(train(threat=hf.LpBall("inf", 0.01, bounds=data().bounds))),
        ),
        "train: numpy numbers": (
            lambda: loss(train(epochs=np.int32(2), learning_rate=np.float64(0.5))),
            lambda: loss(train(epochs=2, learning_rate=0.5)),
        ),
        "train: numpy weights": (
            lambda: loss(train(example_weights=np.full(6, 1 / 6))),
            lambda: loss(train(example_weights=torch.full((6,), 1 / 6))),
        ),
        "optimal_robust_loss: numpy": (
            lambda: optimal(kernel, wide, y().numpy()).lower,
            lambda: optimal(kernel, x().double(), y()).lower,
        ),
        "optimal_robust_loss: threat as text": (
            lambda: optimal(kernel, threat="linf:0.01").lower,
            lambda: optimal(kernel, threat=hf.LpBall("inf", 0.01)).lower,
        ),
        "empirical_ntk: float64": (
            lambda: hf.theory.empirical_ntk(net(), x().double()),
            lambda: hf.theory.empirical_ntk(net(), x()),
        ),
        "from_tensors: numpy": (lambda: same_data(x=x().numpy(), y=y().numpy()), same_data),
        "from_tensors: reversed numpy": (
            lambda: same_data(x=x().numpy()[::-1]),
            lambda: same_data(x=x().flip(0)),
        ),
        "from_tensors: dtype by name": (
            lambda: same_data(dtype="float64"),
            lambda: same_data(dtype=torch.float64),
        ),
        "npz: path as text": (lambda: hf.data.npz(str(file)).x, lambda: hf.data.npz(file).x),
        "LpBall: numpy": (
            lambda: hf.LpBall(
                np.float64(2),
                np.float32(0.5),
                bounds=(np.zeros(4), np.ones(4)),
                fixed=np.array([True, False, False, False]),
            ).project(x() + 1, x()),
            lambda: hf.LpBall(
                "2",
                0.5,
                bounds=(torch.zeros(4), torch.ones(4)),
                fixed=torch.tensor([True, False, False, False]),
            ).project(x() + 1, x()),
        ),
        "TwoLayer: numpy": (
            lambda: hf.networks.TwoLayer(np.int64(4), 2, 8, center=np.ones(4))(x()),
            lambda: hf.networks.TwoLayer(4, 2, 8, center=torch.ones(4))(x()),
        ),
    }
