"""What every method keeps: its deadline, an answer or one sentence, and the function that the model really computes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast import _deadline
from holdfast.errors import InputError
from holdfast.evaluation import cascade
from holdfast.threats import LpBall
from holdfast.verification import scalars, verify
from verification_cases import BALLS, NETWORKS, examples, margins, network, predictions

METHODS = ("ibp", "crown-ibp", "crown", "alpha", "second-order", "branch", "auto")


def paired(activation="softplus", outputs=3):
    """A two-layer network that all methods take."""
    torch.manual_seed(1)
    net = hf.networks.TwoLayer(16, outputs, width=12, activation=activation, paired=True, train_output=False)
    with torch.no_grad():
        net.weight.add_(0.05 * torch.randn_like(net.weight))
    return net.eval()


class Clock:
    """A clock that goes on by one each time it is read."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["relu", "max pool", "paired"])
def test_every_method_stops_when_its_time_is_over(monkeypatch, method, name):
    """By a clock that goes by readings: whatever the work is in the middle of, it reads the clock once more and stops."""
    net = paired().double() if name == "paired" else network(name)
    if method == "second-order" and name != "paired":
        return
    x = examples(3)
    y, threat = predictions(net, x), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    clock = Clock()
    monkeypatch.setattr(_deadline, "time", clock)
    for seconds in (1.0, 9.0, 30.0, 70.0):
        began = clock.now
        proof = verify(net, x, y, threat, method, seconds=seconds)
        assert clock.now - began <= seconds + 5 * len(x)  # the examples after it look a few times each
        assert not (proof.out_of_time & proof.verified).any()
        refuted = ~proof.counterexample.isnan().flatten(1).any(1)
        undecided = ~proof.verified & ~refuted
        if clock.now - began < seconds:  # it was done by itself
            assert not proof.out_of_time.any()
        elif method != "auto":
            assert torch.equal(proof.out_of_time, undecided)


def test_the_best_slopes_so_far_are_kept(monkeypatch):
    net, x = network("relu"), examples(2)
    y, threat = predictions(net, x), hf.LpBall("inf", 0.3, bounds=(0.0, 1.0))
    monkeypatch.setattr(_deadline, "time", Clock())
    full = verify(net, x, y, threat, "alpha", steps=20)
    plain = verify(net, x, y, threat, "crown")
    partly = [verify(net, x, y, threat, "alpha", steps=20, seconds=float(s)) for s in range(40, 240, 40)]
    between = [
        p
        for p in partly
        if bool((p.margins > plain.margins).any()) and bool((p.margins < full.margins).any())
    ]
    assert between
    assert all(bool((p.margins <= full.margins + 1e-12).all()) for p in partly)


PLAIN = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
    "nothing": nn.Flatten,
    "one smooth output": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Tanh()),
    "pooling alone": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
    "kinks and bends": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh()
    ),
    "zeros": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).apply(
        lambda part: [p.data.zero_() for p in part.parameters()]
    ),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1)),
    "paired": paired,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [*PLAIN, "relu", "max pool", "residual", "two-layer"])
def test_every_method_answers_or_refuses_every_network_in_one_sentence(name, method):
    torch.manual_seed(0)
    net = (PLAIN[name]() if name in PLAIN else NETWORKS[name]()).eval()
    x = examples(2).float()
    outputs = net(x).detach().flatten(1)
    y = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    for threat in (BALLS[0], BALLS[1], hf.LpBall("1", 0.0)):
        try:
            proof = verify(net, x, y, threat, method, steps=1, seconds=5.0)
        except InputError:
            assert method == "second-order" or name == "softmax"
            continue
        points = threat.sample(
            x.double().repeat_interleave(100, 0), generator=torch.Generator().manual_seed(0)
        )
        exact = copy.deepcopy(net).double()
        least = (
            margins(exact(points).detach().flatten(1), y.repeat_interleave(100)).reshape(2, 100, -1).amin(1)
        )
        assert (proof.margins <= least + 1e-12).all()


class Negated(hf.networks.TwoLayer):
    def forward(self, x):
        return -super().forward(x)


def hooked(hook, *, before=False):
    net = paired()
    (net.register_forward_pre_hook if before else net.register_forward_hook)(hook)
    return net


def overridden():
    net = paired()
    net.__class__ = Negated
    return net


def shadowed():
    net = paired()
    inner = net.forward
    net.forward = lambda x: -inner(x)
    return net


def parametrised():
    class Negative(nn.Module):
        def forward(self, weight):
            return -weight

    net = paired("tanh")
    nn.utils.parametrize.register_parametrization(net, "weight", Negative())
    return net


CHANGED = {
    "a hook that negates": lambda: hooked(lambda module, given, out: -out),
    "a hook before that scales": lambda: hooked(lambda module, given: (-10 * given[0],), before=True),
    "an overridden forward": overridden,
    "a forward of the instance": shadowed,
    "a parametrisation": parametrised,
    "a hook in a chain": lambda: nn.Sequential(nn.Flatten(), hooked(lambda module, given, out: -out)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_changes_a_network_is_seen_or_refused(name, method, dtype):
    """Asked about the labels that the unchanged network gives, a proof for it would claim the wrong class."""
    net = CHANGED[name]().to(dtype).eval()
    x = examples(4).to(dtype)
    with torch.no_grad():
        outputs = net(x)
    threat = hf.LpBall("inf", 0.001, bounds=(0.0, 1.0))
    for y in (outputs.argmin(1), outputs.argmax(1)):
        try:
            proof = verify(net, x, y, threat, method, steps=1, seconds=5.0)
        except InputError:
            continue
        there = margins(outputs, y)
        assert (proof.margins <= there + 1e-4).all()
        assert not proof.verified[y != outputs.argmax(1)].any()


class Renamed(hf.networks.TwoLayer):
    """Overrides nothing."""


def test_second_order_bounds_are_had_for_exact_networks_alone():
    x, threat = examples(3).float(), hf.LpBall("inf", 0.01, bounds=(0.0, 1.0))
    y = predictions(paired(), x)
    plain = verify(paired(), x, y, threat, "second-order")
    renamed = paired()
    renamed.__class__ = Renamed
    for same in (renamed, nn.Sequential(paired()), nn.Sequential(nn.Flatten(), paired())):
        assert torch.equal(verify(same, x, y, threat, "second-order").margins, plain.margins)
    for name, words in (
        ("a hook that negates", "forward hook"),
        ("an overridden forward", "defines forward itself"),
        ("a forward of the instance", "on the instance"),
        ("a parametrisation", "TwoLayer network exactly"),
    ):
        with pytest.raises(InputError, match=words):
            verify(CHANGED[name]().double(), x.double(), y, threat, "second-order")


def test_softplus_cut_low_is_bounded_as_torch_computes_it():
    """Torch returns ``x`` above the threshold: a step down that neither the graph nor its bounds may smooth over."""
    net = nn.Sequential(nn.Linear(1, 2), nn.Softplus(beta=1.0, threshold=0.5), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for layer, weight in ((net[0], [[1.0], [0.0]]), (net[2], [[1.0, 0.0], [0.0, 0.0]])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
        net[2].bias[1] = 0.6
    x, y = torch.tensor([[0.55]], dtype=torch.float64), torch.tensor([1])  # 0.55 there, 0.97 just left of 0.5
    near, far = (verify(net, x, y, hf.LpBall("inf", radius), "crown") for radius in (0.01, 0.2))
    points = torch.linspace(0.35, 0.75, 1001, dtype=torch.float64)[:, None]
    least = 0.6 - net(points).detach()[:, 0].max()
    assert float(far.margin_lower_bound) <= float(least)
    assert float(near.margin_lower_bound) <= float(0.6 - net(x).detach()[0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = examples(2).float(), torch.tensor([0, 1])
    with pytest.raises(InputError, match="float32 or float64"):
        verify(copy.deepcopy(net).to(dtype), x.to(dtype), y, BALLS[0], "crown")
    with pytest.raises(InputError, match="float32 or float64"):
        verify(nn.Flatten(), x.to(dtype), y, BALLS[0], "ibp")


def test_an_evaluation_with_bounds_refuses_half_precision_before_anything_is_spent():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).half()
    calls = []
    with pytest.raises(InputError, match="float32 or float64"):
        hf.evaluate(
            net,
            examples(2).half(),
            torch.tensor([0, 1]),
            BALLS[0],
            "fast",
            verify="crown",
            progress=lambda *call: calls.append(call),
        )
    assert calls == []


def test_the_seconds_of_bounds_are_shared_by_the_examples_own_balls(monkeypatch):
    """One limit for all radii, not one for each."""
    given = []
    real = cascade.verified_bounds

    def noted(*args, seconds, **rest):
        given.append(seconds)
        return real(*args, seconds=seconds, **rest)

    monkeypatch.setattr(cascade, "verified_bounds", noted)
    net, x = network("relu"), examples(4)
    y = predictions(net, x)
    radii = torch.tensor([0.01, 0.01, 0.02, 0.03])
    hf.evaluate(net, x, y, BALLS[0], "fast", verify="ibp", verify_seconds=100.0, radii=radii)
    assert len(given) >= 3
    assert max(given) <= 50.0


def test_a_copy_that_is_another_function_is_refused():
    class Fickle(nn.Linear):
        """Its copy forgets a factor."""

        def __deepcopy__(self, memo):
            other = nn.Linear(self.in_features, self.out_features)
            other.load_state_dict(self.state_dict())
            return other

        def forward(self, x):
            return -2 * super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), Fickle(16, 3))
    with pytest.raises(InputError, match="float64 copy"):
        verify(net, examples(2).float(), torch.tensor([0, 1]), BALLS[0], "ibp")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: nn.functional.softplus(x, -1.0),
        lambda x: nn.functional.softplus(x, -20.0, 5.0),
        lambda x: torch.clamp(x, 1.0, 0.0),
        lambda x: nn.functional.elu(x, -1.0),
        lambda x: nn.functional.elu(x, 3.0),
    ],
)
@pytest.mark.parametrize("method", ["ibp", "crown", "branch"])
def test_parameters_that_turn_an_activation_around_are_refused(change, method):
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(1, 1), nn.Linear(1, 2)

        def forward(self, x):
            return self.last(change(self.first(x)))

    with pytest.raises(InputError, match=r"softplus|clamp|ELU"):
        verify(Turned(), torch.full((1, 1), 0.5), torch.tensor([0]), LpBall("inf", 0.5), method=method)


@pytest.mark.parametrize(
    "scalar",
    [
        scalars.RELU,
        scalars.ABS,
        scalars.SQUARE,
        scalars.SQUARED_RELU,
        scalars.EXP,
        scalars.SIGMOID,
        scalars.TANH,
        scalars.ERF,
        scalars.GELU,
        scalars.SILU,
        scalars.softplus(),
        scalars.softplus(100.0),
        scalars.softplus(0.01, 3.0),
        scalars.elu(0.7),
        scalars.kinked("leaky", 0.2, 1.0),
        scalars.kinked("steep", 2.0, 1.0),
        scalars.kinked("back", -0.5, 1.0),
    ],
)
def test_scalars_are_what_is_said_of_them_and_others_are_seen(scalar):
    assert not scalar.misdescribed
    assert not scalar.negated().misdescribed
    if not scalar.kinked:  # the other way round is wrong
        assert replace(scalar, convex_first=not scalar.convex_first).misdescribed
    assert replace(scalar, slope=lambda x: scalar.slope(x) + 1.0).misdescribed
