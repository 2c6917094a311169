"""Families of networks: nobody else switches on their classes, all keep the contract, and CONTRIBUTING's own one is certified."""

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.acceleration import closed_form, enabled, recognise
from holdfast.attacks import FGSM, PGD
from holdfast.certificates import certify
from holdfast.curvature import BlockCurvature, Curvature, RoundCurvature
from holdfast.curvature.rounding import Rounding
from holdfast.errors import InputError, RunFolderError
from holdfast.families import (
    DeepCurvature,
    Family,
    FamilyCurvature,
    NetworkFacts,
    Sizes,
    TwoLayerCurvature,
    curvature_for,
    family_of,
    register,
    registered,
    unregister,
    why_not,
)
from holdfast.families.exact import exact_core, fixed_parts
from holdfast.families.registry import rebuilt, stored, unproved
from holdfast.jobs.certify import certify_run
from holdfast.losses import CrossEntropy
from holdfast.networks import Dense, TwoLayer
from holdfast.theory import KernelSpec, empirical_ntk, ntk, spec_of
from holdfast.theory.factors import _any, factors_of
from holdfast.threats import LpBall
from holdfast.trace.cost import record_every

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "holdfast"
DOUBLE = torch.float64


# ---- nobody else switches


OURS = {known.network.__name__ for known in registered()} | {"TwoLayerCurvature", "DeepCurvature"}


def switches(source: str) -> set[str]:
    """The families' classes that this source asks for: by isinstance, issubclass, a comparison of types, a match or a table of types."""

    def named(node: ast.AST) -> set[str]:
        words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return (words | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}) & OURS

    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ) or isinstance(node, ast.Compare):
            found |= named(node)
        elif isinstance(node, ast.MatchClass):
            found |= named(node.cls)
        elif isinstance(node, ast.Dict):
            found |= {
                word for key in node.keys if isinstance(key, ast.Name | ast.Attribute) for word in named(key)
            }
    return found


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.relative_to(PACKAGE).parts[0] not in ("families", "networks")
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_only_families_know_the_classes_of_their_networks(path: Path) -> None:
    assert not switches(path.read_text(encoding="utf-8")), "ask holdfast.families instead"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("isinstance(model, TwoLayer | nn.Linear)", {"TwoLayer"}),
        ("isinstance(model, (networks.Dense, int))", {"Dense"}),
        ("type(model) is MNISTConv", {"MNISTConv"}),
        ("type(model) in (TwoLayer, Dense)", {"TwoLayer", "Dense"}),
        ("issubclass(kind, Linearised)", {"Linearised"}),
        ("match bound:\n    case DeepCurvature():\n        pass", {"DeepCurvature"}),
        ("table = {TwoLayer: 1}", {"TwoLayer"}),
        ("net = TwoLayer(3, 2, 4)\nassert isinstance(net, nn.Module)", set()),
    ],
)
def test_the_check_sees_every_kind_of_switch(source: str, found: set[str]) -> None:
    assert switches(source) == found


# ---- CONTRIBUTING's family


def contributed() -> list[str]:
    """The code blocks of the section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Add a network family with its proof")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def affine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The file of CONTRIBUTING.md, its family registered by the line there."""
    file, line = contributed()
    path = tmp_path / "affine.py"
    path.write_text(file, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("affine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "affine", module)
    spec.loader.exec_module(module)
    exec(line, {"holdfast": holdfast, "AffineFamily": module.AffineFamily})
    yield module
    unregister("affine")


def blobs(classes: int, count: int = 40) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    y = torch.arange(count) % classes
    return torch.randn(count, 4, generator=draw, dtype=DOUBLE) + 0.7 * torch.eye(4, dtype=DOUBLE)[y], y


def optimal(x: Tensor, y: Tensor, ball: float, radius: float) -> tuple[Tensor, float]:
    """Of two classes: the affine network of least robust loss within ``||W|| <= radius``, whose worst points are known, by projected descent."""
    signs = 2.0 * y.double() - 1
    z = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    weight = torch.zeros(5, dtype=DOUBLE, requires_grad=True)

    def robust(w: Tensor) -> Tensor:
        margins = signs * (z @ w) - ball * (w[:-1].square().sum() + 1e-30).sqrt()
        return nn.functional.softplus(-margins).mean()

    for _ in range(300):
        (slope,) = torch.autograd.grad(robust(weight), weight)
        with torch.no_grad():
            weight -= slope
            weight *= min(1.0, radius / float(weight.detach().norm()))
    return weight.detach(), float(robust(weight.detach()))


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_contributed_family_is_certified_and_its_bound_is_below_the_optimum(
    affine: ModuleType, share: float
) -> None:
    x, y = blobs(2)
    best, least = optimal(x, y, 0.3, 1.0)
    net, start = affine.Affine(4, 2).double(), affine.Affine(4, 2).double()
    with torch.no_grad():
        net.weight.copy_(share * best)
    found = certify(net, start, x, y, LpBall("2", 0.3), FGSM(), 1.0)
    assert found.status == "certified"
    assert "this affine network has a rigorous bound" in found.reason
    assert "the family 'affine' says, affine.AffineFamily, which is not the library's" in found.reason
    assert found.lower_bound <= least
    if share == 1.0:
        assert found.lower_bound > least - 1e-3
        assert found.surrogate_loss == pytest.approx(least, abs=1e-5)


def test_a_run_of_the_contributed_family_is_certified_again_from_its_folder(
    affine: ModuleType, tmp_path: Path
) -> None:
    x, y = blobs(2)
    data = holdfast.data.from_tensors(x.float(), y)
    run = holdfast.train(
        affine.Affine(4, 2),
        data,
        "l2:0.2",
        parameter_radius=1.0,
        epochs=4,
        batch_size=20,
        out=tmp_path / "run",
        progress=False,
    )
    assert run.certificate.status == "certified"
    assert "affine.AffineFamily" in run.certificate.reason
    part = data.train
    assert run.certificate.lower_bound <= optimal(part.x.double(), part.y, 0.2, 1.0)[1]
    wider = certify_run(tmp_path / "run", radius=2.0, progress=False)
    assert wider.status == "certified"
    assert "affine.AffineFamily" in wider.reason
    assert wider.lower_bound <= optimal(part.x.double(), part.y, 0.2, 2.0)[1]
    unregister("affine")
    with pytest.raises(RunFolderError, match="network of its own"):
        certify_run(tmp_path / "run", progress=False)
    other = type(
        "Other", (affine.AffineFamily,), {"__module__": "elsewhere"}
    )  # says the same of the same class, but is another
    register(other())
    assert "family is not what it was" in certify_run(tmp_path / "run", progress=False).reason


# ---- the contract


def affine_net() -> nn.Module:
    return sys.modules["affine"].Affine(4, 3)


NETWORKS: dict[str, list[Callable[[], nn.Module]]] = {
    "two-layer": [
        lambda: TwoLayer(4, 2, 8),
        lambda: TwoLayer(4, 3, 12, "relu", constant=0.5, center=torch.ones(4)),
        lambda: TwoLayer(4, 3, 12, "tanh", train_output=True, paired=False),
    ],
    "dense": [
        lambda: Dense(4, 2, 8, 2, "tanh"),
        lambda: Dense(4, 3, 12, 3, output="signed", input_layer=False),
    ],
    "affine": [affine_net],
}
CASES = [(name, number) for name, made in NETWORKS.items() for number in range(len(made))]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def network(request: pytest.FixtureRequest, affine: ModuleType) -> nn.Module:
    """A network of each family, a little away from its start."""
    name, number = request.param
    net = NETWORKS[name][number]().double()
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=DOUBLE)
    return net


def test_every_family_with_a_proof_is_held_to_the_contract(affine: ModuleType) -> None:
    assert {family.name for family in registered() if isinstance(family, Family)} == NETWORKS.keys()


def family(network: nn.Module) -> Family[Any]:
    found = family_of(network)
    assert found is not None
    return found


def test_a_network_is_found_exact_and_no_longer_with_a_hook(network: nn.Module) -> None:
    assert why_not(network) == ""
    assert why_not(family(network).example()) == ""
    assert family_of(nn.Sequential(nn.Flatten(), network)) is family(network)
    curvature, reason = curvature_for(network)
    assert type(curvature) is type(family(network).curvature())
    assert reason.startswith("proved: ")
    handle = network.register_forward_hook(lambda *_: None)
    assert "hook" in why_not(network)
    assert curvature.unproved(network)
    assert not curvature_for(network)[0].rigorous
    handle.remove()


def test_a_tensor_of_another_shape_or_list_leaves_no_proof(network: nn.Module) -> None:
    for word, shape in family(network).sizes(network).shapes.items():
        owner, _, name = word.rpartition(".")
        holder = network.get_submodule(owner)
        tensors = holder._parameters if name in holder._parameters else holder._buffers
        kept = tensors[name]
        assert kept is not None
        assert tuple(kept.shape) == shape
        tensors[name] = type(kept)(torch.zeros(*(n + 1 for n in shape), 1, dtype=DOUBLE))
        assert why_not(network)
        tensors[name] = kept
    assert why_not(network) == ""


def test_every_number_of_a_network_is_in_its_fingerprint(network: nn.Module) -> None:
    before = fixed_parts(network, ())
    for word, value in list(vars(network).items()):
        if type(value) in (int, float) and not word.startswith("_"):
            setattr(network, word, value + 1)
            core = exact_core(network)
            assert core is None or fixed_parts(network, ())[word] != before[word]
            setattr(network, word, value)


def rounds(network: nn.Module, radius: float) -> tuple[Tensor, Tensor, RoundCurvature, Curvature]:
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(6, 4, generator=draw, dtype=DOUBLE)
    slopes = torch.randn(network(x).shape, generator=draw, dtype=DOUBLE) / 6
    initial = {name: p.detach().clone() for name, p in network.named_parameters()}
    curvature = family(network).curvature().within(network, initial, radius)
    prepared = curvature.prepared(network, initial, x, lambda outputs: slopes).recentred(1.0)
    return x, slopes, prepared.round(network, x, slopes, reach=radius), prepared


def test_the_tangent_is_that_of_automatic_differentiation(network: nn.Module) -> None:
    x, slopes, found, curvature = rounds(network, 1.0)
    names = [name for ball in curvature.parameters(network) for name in ball]
    assert names == [name for name, p in network.named_parameters() if p.requires_grad]
    outputs = network(x)
    gradients = torch.autograd.grad((slopes * outputs).sum(), [network.get_parameter(name) for name in names])
    assert found.tangent is not None
    torch.testing.assert_close(found.tangent.outputs, outputs.detach())
    for ours, theirs in zip((g for ball in found.tangent.gradients for g in ball), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def spent(block: BlockCurvature, move: Tensor) -> float:
    """``q`` of one weight matrix."""
    total = 0.0 if block.eigenvalue is None else float(block.eigenvalue) * float(move.square().sum())
    if block.rows is not None:
        total += float((block.rows.times(move) * move).sum())
    if block.matrices is not None:
        seen = move if block.basis is None else move @ block.basis
        grouped = seen.reshape(len(block.matrices), -1, seen.shape[1])
        total += float(((grouped @ block.matrices) * grouped).sum())
    return total


@pytest.mark.parametrize("radius", [0.1, 2.0])
def test_no_sampled_step_falls_further_below_the_tangent_than_the_bound(
    network: nn.Module, radius: float
) -> None:
    x, slopes, found, curvature = rounds(network, radius)
    assert found.tangent is not None
    names = curvature.parameters(network)
    with torch.no_grad():
        start = {name: network.get_parameter(name).clone() for ball in names for name in ball}
        draw = torch.Generator().manual_seed(11)
        for _ in range(50):
            moves = [
                [torch.randn(start[n].shape, generator=draw, dtype=DOUBLE) for n in ball] for ball in names
            ]
            for ball in moves:
                size = torch.cat([m.flatten() for m in ball]).norm()
                for move in ball:
                    move *= radius / size
            for ball, steps in zip(names, moves, strict=True):
                for name, move in zip(ball, steps, strict=True):
                    network.get_parameter(name).copy_(start[name] + move)
            linear, cost = 0.0, 0.0 if found.slack is None else float(found.slack)
            for gradients, blocks, steps in zip(found.tangent.gradients, found.balls, moves, strict=True):
                for gradient, block, move in zip(gradients, blocks, steps, strict=True):
                    linear += float((gradient * move).sum())
                    cost += spent(block, move)
            change = float((slopes * (network(x) - found.tangent.outputs)).sum())
            assert change - linear >= -cost - 1e-12


def test_rounding_is_allowed_for_and_grows_with_its_figures(network: nn.Module) -> None:
    initial = {name: p.detach() for name, p in network.named_parameters()}

    def allowance(examples: int, slope: float) -> float:
        seen = Rounding(unit=2.0**-53, examples=examples, slope=slope, loss=1.0, input_norm=2.0, distance=1.0)
        return family(network).rounding(network, initial, seen).allowance(1.0, 0.1)

    assert 0 < allowance(10, 1.0) < allowance(10_000, 1.0) < allowance(10_000, 2.0) < 1e-6
    x = torch.full((3, 4), 5.0, dtype=DOUBLE)
    assert family(network).input_norms(network, x).shape == (3,)


def test_the_cost_of_recording_falls_with_the_attacks_passes(network: nn.Module) -> None:
    costs = [family(network).recording(network, 1000, 100, passes) for passes in (1, 10)]
    assert costs[0] > costs[1] > 0
    assert record_every(network, 1000, 100, 10) >= 1


def test_factors_give_the_kernel_of_automatic_differentiation(network: nn.Module) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    outputs = network(x).shape[1]

    def gram(factors: list[Any]) -> Tensor:
        rows = []
        for factor in factors:
            if factor.inputs is None:
                rows.append(factor.gradients.flatten(2))
            else:
                rows.append(torch.einsum("cnu,ni->cnui", factor.gradients, factor.inputs).flatten(2))
        whole = torch.cat(rows, 2).transpose(0, 1).flatten(0, 1)
        return whole @ whole.T

    torch.testing.assert_close(gram(factors_of(network, outputs, x)), gram(_any(network, outputs, x)))


def test_a_closed_form_is_the_gradient_of_automatic_differentiation(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognise, "LEAST_WORK", 0)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE, requires_grad=True)
    with enabled(True):
        closed = closed_form(network, x.detach())
    if type(family(network)).closed_form is Family.closed_form:
        assert closed is None
        return
    assert closed is not None
    outputs = network(x)
    (gradient,) = torch.autograd.grad(outputs.square().sum() / 2, x)
    with torch.no_grad():
        ours = closed(x.detach(), lambda values: values)
    torch.testing.assert_close(ours[0], outputs.detach())
    torch.testing.assert_close(ours[1], gradient)


def test_settings_are_plain_and_make_the_network_again(network: nn.Module) -> None:
    settings = stored(network)
    assert settings is not None
    made = rebuilt(**json.loads(json.dumps(settings)))
    assert made is not None
    again = made.double()
    again.load_state_dict(network.state_dict())
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    assert torch.equal(again(x), network(x))
    assert stored(again) == settings


def test_its_kernel_is_that_of_its_own_wide_networks(network: nn.Module) -> None:
    """A kernel's scale and inputs; how near a finite network comes is the affair of test_ntk."""
    spec = spec_of(network)
    assert isinstance(spec, KernelSpec)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    if family(network).name == "affine":
        torch.testing.assert_close(ntk(network)(x, x), empirical_ntk(network, x, outputs="mean"))
    assert bool(ntk(network)(x, x).isfinite().all())
    assert family(network).describe(network)


# ---- what a family cannot do


class Mine(nn.Module):
    """A network of one number, of which each test makes a bad family."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1] * self.weight


class MineCurvature(FamilyCurvature[Mine]):
    network, word = Mine, "mine"

    def unsuited(self, network: Mine) -> str:
        return ""

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        return (self.core(model).named("weight"),)

    def round(
        self, model: nn.Module, points: Tensor, weighted_slopes: Tensor, *, reach: float
    ) -> RoundCurvature:
        return RoundCurvature(balls=((BlockCurvature(),),))


class MineFamily(Family[Mine]):
    name: Any = "mine"
    network: Any = Mine

    def example(self) -> Any:
        return self.network()

    def sizes(self, network: Mine) -> Sizes:
        return Sizes(shapes={"weight": (1, 1)})

    def curvature(self) -> Curvature:
        return MineCurvature()

    def rounding(self, network: Mine, initial: Any, seen: Rounding) -> Rounding:
        return seen


class SubTwoLayer(TwoLayer):
    def __init__(self) -> None:
        super().__init__(1, 2, 2)


class WithTensor(Mine):
    """Holds a number where no fingerprint looks."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [1.0]


class WithBuffer(Mine):
    """Holds a tensor that its sizes leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("other", torch.ones(()))


class WithModule(Mine):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)


class Own(Curvature):
    """Says of itself that it is a proof."""

    @property
    def rigorous(self) -> bool:
        return True

    def unproved(self, model: nn.Module) -> str:
        return ""

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        return (("weight",),)

    def round(
        self, model: nn.Module, points: Tensor, weighted_slopes: Tensor, *, reach: float
    ) -> RoundCurvature:
        raise NotImplementedError


def family_with(**attributes: Any) -> MineFamily:
    kind: Any = type("Family", (MineFamily,), attributes)
    return kind()  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Callable[[], NetworkFacts[Any]], str]] = {
    "name taken": (lambda: family_with(name="two-layer"), "name of its own"),
    "class taken": (lambda: family_with(network=TwoLayer), "belongs to one family"),
    "subclass of one taken": (lambda: family_with(network=SubTwoLayer), "belongs to one family"),
    "base of one taken": (lambda: family_with(network=nn.Module), "class of your own"),
    "torch's own": (lambda: family_with(network=nn.Linear), "class of your own"),
    "sizes that are not its own": (
        lambda: family_with(sizes=lambda self, net: Sizes(shapes={"weight": (2, 1)})),
        "shape",
    ),
    "no sizes": (
        lambda: family_with(sizes=lambda self, net: Sizes(shapes={"weight": (net.width, 1)})),
        "sizes",
    ),
    "activation of one's own": (
        lambda: family_with(sizes=lambda self, net: Sizes(shapes={"weight": (1, 1)}, activation=torch.sin)),
        "activation",
    ),
    "what no fingerprint sees": (lambda: family_with(network=WithTensor), "nobody would notice"),
    "a tensor left out": (lambda: family_with(network=WithBuffer), "sizes name"),
    "a module within": (lambda: family_with(network=WithModule), "further module"),
    "another kind of curvature": (lambda: family_with(curvature=lambda self: Own()), "FamilyCurvature"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_weaken_the_question_is_refused(what: str) -> None:
    made, why = REFUSED[what]
    before = registered()
    with pytest.raises(InputError, match=why):
        register(made())
    assert registered() == before
    assert why_not(Mine())
    assert why_not(TwoLayer(3, 2, 4)) == ""


def test_a_network_is_proved_only_while_its_family_is_registered() -> None:
    assert "not a network of the library" in why_not(Mine())
    register(MineFamily())
    assert why_not(Mine()) == ""
    assert curvature_for(Mine())[0].rigorous
    with pytest.raises(InputError, match="name of its own"):
        register(MineFamily())
    unregister("mine")
    assert "not a network of the library" in why_not(Mine())
    assert MineCurvature().unproved(Mine())


@pytest.mark.parametrize("name", ["two-layer", "dense", "mnist-conv", "vit", "nobody"])
def test_the_librarys_families_are_not_unregistered(name: str) -> None:
    with pytest.raises(InputError, match="registered"):
        unregister(name)
    assert why_not(TwoLayer(3, 2, 4)) == ""


def test_a_class_of_ones_own_that_is_changed_later_has_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base(nn.Module):
        factor = 1.0

        def scaled(self, x: Tensor) -> Tensor:
            return self.factor * x

    class Child(Base):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scaled(x.flatten(1)[:, :1]) * self.weight

    register(family_with(network=Child))
    try:
        assert why_not(Child()) == ""
        with monkeypatch.context() as patch:
            patch.setattr(Base, "factor", 2.0)
            assert "changed after" in why_not(Child())
        assert why_not(Child()) == ""
        monkeypatch.setattr(Base, "scaled", lambda self, x: 2 * x)  # inherited, and read by forward
        assert "changed after" in why_not(Child())
    finally:
        unregister("mine")


@pytest.mark.parametrize("made", [lambda: TwoLayer(4, 2, 8), Mine], ids=["of a family", "of none"])
def test_a_curvature_that_only_says_it_is_a_proof_certifies_nothing(made: Callable[[], nn.Module]) -> None:
    x, y = blobs(2)
    model = made().double()
    start = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match="caller's own"):
        certify(model, start, x, y, LpBall("2", 0.1), PGD(steps=2), 1.0, curvature=Own())
    recorder = holdfast.TraceRecorder(
        model, x, y, LpBall("2", 0.1), CrossEntropy(), curvature=Own(), radius=1.0
    )
    assert not recorder.proved
    recorder.open()
    recorder.record(torch.arange(40), x, model(x).detach(), round_size=40)
    assert "caller's own" in recorder.close().void


class Looser(TwoLayerCurvature):
    def unproved(self, model: nn.Module) -> str:
        return ""

    def costs(self, net: TwoLayer, weighted_slopes: Tensor) -> Tensor:
        return 0 * super().costs(net, weighted_slopes)


def test_a_curvature_that_inherits_a_familys_is_not_the_familys() -> None:
    net = TwoLayer(4, 2, 8)
    assert unproved(TwoLayerCurvature(), net) == ""
    assert "caller's own" in unproved(Looser(), net)
    assert "not one for TwoLayer" in unproved(DeepCurvature(), net)
