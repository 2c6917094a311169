"""What is exactly a network of the library: proofs hold for these alone, however a module was made into another."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import holdfast as hf
from holdfast.curvature import LocalLinearity
from holdfast.errors import InputError
from holdfast.families import DeepCurvature, TwoLayerCurvature, curvature_for
from holdfast.families.exact import exact_core, fingerprints, first_difference, fixed_parts, why_not_exact
from holdfast.losses import CrossEntropy
from holdfast.networks import Dense, TwoLayer
from holdfast.networks.activations import SOFTPLUS, Activation
from holdfast.theory.spec import spec_of
from holdfast.threats import LpBall, is_ball
from holdfast.trace import TraceRecorder
from holdfast.verification import verify
from holdfast.verification.region import region_of


def two_layer() -> TwoLayer:
    return TwoLayer(3, 2, 12, "softplus", constant=0.5)


class Plain(TwoLayer):
    """Inherits everything."""

    def describe(self) -> str:
        return "mine"


class WithStart(TwoLayer):
    def __init__(self) -> None:
        super().__init__(3, 2, 12)
        self.note = "made elsewhere"


class PlainDense(Dense):
    pass


EXACT: dict[str, Callable[[], nn.Module]] = {
    "itself": two_layer,
    "unmodified subclass": lambda: Plain(3, 2, 12),
    "subclass with its own init": WithStart,
    "sequential": lambda: nn.Sequential(two_layer()),
    "nested sequential": lambda: nn.Sequential(
        nn.Identity(), nn.Sequential(nn.Flatten(), two_layer()), nn.Identity()
    ),
    "dense": lambda: Dense(3, 2, 8, 2),
    "dense subclass": lambda: PlainDense(3, 2, 8, 2),
    "sequential dense": lambda: nn.Sequential(Dense(3, 2, 8, 2)),
    "trained outputs": lambda: TwoLayer(3, 3, 12, "tanh", train_output=True),
    "centred softplus": lambda: TwoLayer(3, 2, 12, "csp0.5"),
    "copy": lambda: copy.deepcopy(TwoLayer(3, 2, 12, "csp1")),
    "float64": lambda: two_layer().double(),
    "half": lambda: two_layer().half(),
}


@pytest.mark.parametrize("name", EXACT)
def test_networks_as_written_keep_their_proof(name: str) -> None:
    model = EXACT[name]()
    assert why_not_exact(model) == ""
    assert curvature_for(model)[0].rigorous
    names = [n for ball in curvature_for(model)[0].parameters(model) for n in ball]
    assert names == [n for n, p in model.named_parameters() if p.requires_grad]


class Negated(TwoLayer):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class OtherInputs(TwoLayer):
    def inputs(self, x: Tensor) -> Tensor:
        return 2 * super().inputs(x)


class OtherCall(TwoLayer):
    def __call__(self, x: Tensor) -> Tensor:
        return 3 * super().__call__(x)


class Lookup(TwoLayer):
    def __getattr__(self, name: str) -> object:
        found = super().__getattr__(name)
        return 2 * found if name == "weight" else found


class OtherConstant(TwoLayer):
    constant = property(
        lambda self: float(torch.rand(())), lambda self, value: None
    )  # hides the instance's number


class Mixin:
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


class Mixed(Mixin, TwoLayer):
    pass


class Late(nn.Module):
    def _call_impl(self, *args: object) -> Tensor:
        return torch.zeros(1, 1)


class MixedLate(TwoLayer, Late):
    pass


class Double(TwoLayer):
    def double(self) -> "Double":
        self.scale.mul_(2)
        return super().double()


class Copied(TwoLayer):
    def __deepcopy__(self, memo: object) -> TwoLayer:
        return two_layer()


class OtherLayers(Dense):
    @property
    def layer_scale(self) -> float:
        return 1.0


class Held(nn.Parameter):
    pass


def changed(change: Callable[[TwoLayer], object]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net = two_layer()
        change(net)
        return net

    return made


def compiled(net: TwoLayer) -> None:
    net._compiled_call_impl = lambda x: x  # what `compile` sets


def with_tensor(net: TwoLayer) -> None:
    net.weight = Held(net.weight.detach())


ALTERED: dict[str, Callable[[], nn.Module]] = {
    "forward": lambda: Negated(3, 2, 12),
    "inputs": lambda: OtherInputs(3, 2, 12),
    "call": lambda: OtherCall(3, 2, 12),
    "getattr": lambda: Lookup(3, 2, 12),
    "class attribute": lambda: OtherConstant(3, 2, 12),
    "mixin": lambda: Mixed(3, 2, 12),
    "mixin behind": lambda: MixedLate(3, 2, 12),
    "double": lambda: Double(3, 2, 12),
    "deepcopy": lambda: Copied(3, 2, 12),
    "property": lambda: OtherLayers(3, 2, 8, 2),
    "instance forward": changed(lambda net: setattr(net, "forward", lambda x: x[:, :1])),
    "instance preactivations": changed(
        lambda net: setattr(net, "preactivations", lambda x: x @ net.weight[:, :3].T)
    ),
    "forward hook": changed(lambda net: net.register_forward_hook(lambda m, i, o: 10 * o)),
    "pre-hook": changed(lambda net: net.register_forward_pre_hook(lambda m, i: (10 * i[0],))),
    "backward hook": changed(lambda net: net.register_full_backward_hook(lambda m, i, o: None)),
    "parameter hook": changed(lambda net: net.weight.register_hook(lambda g: 0.2 * g)),
    "accumulation hook": changed(lambda net: net.weight.register_post_accumulate_grad_hook(lambda p: None)),
    "dropout by hook": changed(
        lambda net: net.register_forward_hook(lambda m, i, o: nn.functional.dropout(o))
    ),
    "parametrisation": changed(lambda net: parametrize.register_parametrization(net, "weight", nn.Tanh())),
    "spectral norm": changed(lambda net: parametrizations.spectral_norm(net, "weight")),
    "compiled": changed(compiled),
    "tensor class": changed(with_tensor),
    "shape": changed(lambda net: setattr(net, "width", 24)),
    "groups": changed(lambda net: setattr(net, "groups", 5)),
    "further module": changed(lambda net: net.add_module("head", nn.Linear(1, 1))),
    "own activation": lambda: TwoLayer(
        3,
        2,
        12,
        Activation(
            name="softplus",
            value=torch.sin,
            slope=torch.cos,
            lipschitz=1.0,
            curvature_above=1e-9,
            curvature_below=0.0,
        ),
    ),
    "activation replaced": changed(lambda net: setattr(net, "activation", torch.sin)),
    "sequential with more": lambda: nn.Sequential(two_layer(), nn.Tanh()),
    "sequential with a hook": lambda: _hooked(nn.Sequential(two_layer())),
    "sequential around a hook": lambda: nn.Sequential(_hooked(two_layer())),
    "identity with a hook": lambda: nn.Sequential(_hooked(nn.Identity()), two_layer()),
    "dense with a list of its own": lambda: _other_list(Dense(3, 2, 8, 2)),
}


def _hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda m, i, o: 10 * o)
    return module


def _other_list(net: Dense) -> nn.Module:
    class Reversed(nn.ParameterList):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return reversed(list(super().__iter__()))

    net.weights = Reversed(list(net.weights))
    return net


@pytest.mark.parametrize("name", ALTERED)
def test_altered_networks_have_no_proof_and_say_why(name: str) -> None:
    model = ALTERED[name]()
    why = why_not_exact(model)
    assert why
    assert exact_core(model) is None
    curvature, reason = curvature_for(model)
    assert isinstance(curvature, LocalLinearity)
    assert why in reason
    assert TwoLayerCurvature().unproved(model)
    assert DeepCurvature().unproved(model)
    with pytest.raises(InputError):
        spec_of(model)


def test_a_class_changed_at_run_time_has_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_layer()
    monkeypatch.setattr(TwoLayer, "preactivations", lambda self, x: x)
    assert "changed after" in why_not_exact(model)


def test_a_hook_on_all_modules_leaves_no_proof() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: 2 * o)
    try:
        assert why_not_exact(two_layer())
    finally:
        handle.remove()
    assert why_not_exact(two_layer()) == ""


def test_a_hook_that_comes_while_training_voids_its_window() -> None:
    net = two_layer().double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.2), CrossEntropy(), curvature=TwoLayerCurvature(), radius=1.0
    )
    recorder.open()
    recorder.record(torch.arange(3), x[:3], net(x[:3]).detach(), round_size=3)
    handle = net.weight.register_hook(lambda g: torch.where(g > 0, g, 0.0))
    recorder.record(torch.arange(3, 6), x[3:], net(x[3:]).detach(), round_size=3)
    assert "hook" in recorder.close().void
    handle.remove()


def test_output_rows_are_read_when_they_are_needed() -> None:
    """Rows that differ within a group get the costs of the worst of them."""
    net = TwoLayer(3, 3, 12).double()
    slopes = torch.randn(5, 3, dtype=torch.float64)
    before = TwoLayerCurvature().costs(net, slopes)
    with torch.no_grad():
        net.output_weight.mul_(-10)
    after = TwoLayerCurvature().costs(net, slopes)
    groups = net.output_weight.reshape(net.groups, -1, 3)[:, 0]
    torch.testing.assert_close(after, 0.25 * (-(groups @ slopes.T)).clamp_min(0))
    assert not torch.allclose(before, after)
    with torch.no_grad():
        net.output_weight[1] = torch.tensor([-7.0, 1.0, 2.0])
    mixed = TwoLayerCurvature().costs(net, slopes)
    unit = 0.25 * (-(net.output_weight @ slopes.T)).clamp_min(0)
    torch.testing.assert_close(mixed, unit.reshape(net.groups, -1, 5).amax(1))


PARTS: dict[str, Callable[[TwoLayer], object]] = {
    "scale": lambda net: net.scale.mul_(3),
    "output_weight": lambda net: net.output_weight.mul_(-1),
    "center": lambda net: net.center.add_(1),
    "constant": lambda net: setattr(net, "constant", 0.25),
    "activation": lambda net: setattr(net, "activation", TwoLayer(3, 2, 4, "tanh").activation),
    "data of a buffer": lambda net: net.output_weight.data.mul_(0.5),
}


@pytest.mark.parametrize("part", PARTS)
def test_everything_the_function_depends_on_is_in_its_fingerprint(part: str) -> None:
    net = TwoLayer(3, 2, 12, "softplus", constant=0.5, center=torch.zeros(3))
    before = fingerprints(fixed_parts(net, ("weight",)))
    with torch.no_grad():
        net.weight.add_(1.0)
        assert first_difference(before, fingerprints(fixed_parts(net, ("weight",)))) == ""
        PARTS[part](net)
    assert first_difference(before, fingerprints(fixed_parts(net, ("weight",)))) != ""


def test_a_fingerprint_is_of_numbers_not_of_their_type() -> None:
    net = TwoLayer(3, 2, 12, "softplus", scale=0.1)
    before = fingerprints(fixed_parts(net, ("weight",)))
    assert fingerprints(fixed_parts(net.double(), ("weight",))) == before


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("whole", [True, False], ids=["between windows", "within a window"])
def test_parts_that_change_while_training_void_the_window(part: str, whole: bool) -> None:
    net = TwoLayer(3, 2, 12, "softplus", constant=0.5, center=torch.zeros(3)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.2), CrossEntropy(), curvature=TwoLayerCurvature(), radius=1.0
    )
    recorder.open()
    for rows in torch.arange(6).split(3):
        if whole or int(rows[0]) == 3:
            with torch.no_grad():
                PARTS[part](net)
        recorder.record(rows, x[rows], net(x[rows]).detach(), round_size=3)
    assert "changed while training" in recorder.close().void


def test_the_librarys_softplus_is_known_by_what_it_is() -> None:
    twin = Activation(
        name="softplus",
        value=SOFTPLUS.value,
        slope=SOFTPLUS.slope,
        lipschitz=1.0,
        curvature_above=0.25,
        curvature_below=0.0,
    )
    assert why_not_exact(TwoLayer(3, 2, 12, twin)) == ""


class Shifted(LpBall):
    """Not the ball that its radius describes."""

    def maximise(self, direction: Tensor, x: Tensor) -> Tensor:
        return super().maximise(direction, x) + 5.0


class Named(LpBall):
    @property
    def title(self) -> str:
        return "mine"


def test_only_a_ball_as_written_is_bounded_as_one() -> None:
    assert is_ball(LpBall("2", 0.1))
    assert is_ball(Named("2", 0.1))
    assert not is_ball(Shifted("2", 0.1))
    x = torch.zeros(1, 3)
    assert float(region_of(Shifted("inf", 0.1), x).upper.max()) >= 5.0
    assert float(region_of(Named("inf", 0.1), x).upper.max()) < 0.2


class Everything(LpBall):
    """All of the box, whatever the radius; the maximiser is still the ball's."""

    def project(self, points: Tensor, x: Tensor) -> Tensor:
        return points.clamp(0, 1)

    def contains(self, points: Tensor, x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool)


class Roomy(LpBall):
    """Takes points of twice the radius for members, though it returns none."""

    def contains(self, points: Tensor, x: Tensor) -> Tensor:
        return (points - x).flatten(1).norm(dim=1) <= 2 * self.radius


@pytest.mark.parametrize("threat", [Everything("inf", 0.001, bounds=(0.0, 1.0)), Roomy("2", 0.3)])
def test_a_ball_changed_without_its_maximiser_is_refused(threat: LpBall) -> None:
    model, x = nn.Linear(4, 3), torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    for method in ("ibp", "crown"):
        with pytest.raises(InputError, match="linear maximiser"):
            verify(model, x, y, threat, method=method)
    with pytest.raises(InputError, match="linear maximiser"):
        hf.evaluate(model, x, y, threat, attacks="fast")
    with pytest.raises(InputError, match="linear maximiser"):
        hf.PGD().run(model, x, y, threat)


def test_a_ball_changed_as_a_whole_is_taken() -> None:
    class Wider(LpBall):
        def maximise(self, direction: Tensor, x: Tensor) -> Tensor:
            return x + 3 * (super().maximise(direction, x) - x)

    for threat in (Wider("2", 0.1), Wider("1", 0.1), Named("2", 0.1)):
        threat.check(torch.zeros(2, 3))


def test_a_loss_that_computes_another_has_no_bound_by_margins() -> None:
    class Cubed(CrossEntropy):
        def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
            return super().__call__(outputs, labels) ** 3

    proof = verify(two_layer(), torch.zeros(2, 3), torch.arange(2), LpBall("2", 0.1))
    with pytest.raises(InputError, match="loss"):
        proof.loss_upper_bound(Cubed())


# What shares memory, copies itself as another, or was changed behind the library's back.


def test_tensors_that_share_memory_have_no_proof() -> None:
    center = TwoLayer(3, 2, 12, center=torch.zeros(3))
    center._buffers["center"] = center.weight.data[0]
    assert "share memory" in why_not_exact(center)
    outputs = TwoLayer(1, 2, 12)
    outputs._buffers["output_weight"] = outputs.weight.data
    assert "share memory" in why_not_exact(outputs)
    wide = two_layer()
    wide.weight = nn.Parameter(torch.zeros(1, 4).expand(12, 4))
    assert "one place of memory" in why_not_exact(wide)
    whole = torch.randn(100)  # neighbours in one storage are no fault: weights loaded from a file lie so
    near = two_layer()
    near.weight.data = whole[:48].view(12, 4)
    near._buffers["output_weight"] = whole[48:60].view(12, 1)
    assert why_not_exact(near) == ""


def test_special_methods_on_an_instance_leave_no_proof() -> None:
    net = two_layer()
    other = copy.deepcopy(net)
    net.__deepcopy__ = lambda memo: other
    assert "__deepcopy__" in why_not_exact(net)


class Sly:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def test_an_activation_that_only_says_it_is_equal_is_none_of_ours() -> None:
    sly = Activation(
        name="softplus",
        value=Sly(),
        slope=SOFTPLUS.slope,
        lipschitz=1.0,
        curvature_above=0.25,
        curvature_below=0.0,
    )
    assert why_not_exact(TwoLayer(3, 2, 12, sly))


def test_an_activation_of_ours_that_was_changed_is_noticed() -> None:
    net = two_layer()
    object.__setattr__(SOFTPLUS, "curvature_above", 1e-3)
    try:
        assert why_not_exact(net)
    finally:
        object.__setattr__(SOFTPLUS, "curvature_above", 0.25)
    assert why_not_exact(net) == ""
