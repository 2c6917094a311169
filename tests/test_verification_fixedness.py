"""A model that is verified is one function: nothing of it can hang on values taken out of torch, on how it is run, or on chance.

Every case is a network that is right at most points and wrong on a set too small for spot checks, or in circumstances other than
those of the trace. Each would be "verified" by a trace that only compares outputs at a few points.
"""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.errors import InputError
from holdfast.verification import verify
from verification_cases import BALLS, NETWORKS, examples, network, predictions


class Base(nn.Module):
    """A linear network; `flips` says when its answer is turned around."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 3)
        self.calls = 0

    def flips(self, x):
        raise NotImplementedError

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return -out if self.flips(x) else out


def tiny(x):
    """Whether numbers lie in a set that no sample hits."""
    return 0.123456 < float(x) < 0.123457


def flips(function):
    """A network class from the rule by which it flips."""
    return type("Flipping", (Base,), {"flips": lambda self, x: function(x), "__module__": __name__})


class Subclass(torch.Tensor):
    pass


def swallowed(x):
    """Leaves torch where it can, and catches what is said against it."""
    try:
        return tiny(x.numpy(force=True).flat[0])
    except Exception:
        return False


LEAVING = {
    "numpy": lambda x: tiny(x.detach().numpy().flat[0]),
    "asarray": lambda x: tiny(np.asarray(x.detach()).flat[0]),
    "np.array": lambda x: tiny(np.array(x.detach().cpu()).flat[0]),
    "tolist": lambda x: tiny(x.tolist()[0][0][0][0]),
    "item": lambda x: tiny(x.flatten()[0].item() if x.numel() else 0),
    "item of a sum": lambda x: tiny(x.sum().item()),
    "float": lambda x: tiny(x.flatten(1).sum(1)[:1].sum()),
    "bool": lambda x: bool((x.flatten(1)[:, 0] == 0.123456).any()),
    "if": lambda x: (x > 100).any(),
    "int": lambda x: int(x.sum()) == 123456,
    "index": lambda x: [False, True][(x.sum() > 1e6).long()],
    "equal": lambda x: torch.equal(x, x * 0 + 0.123456),
    "allclose": lambda x: torch.allclose(x, x * 0 + 0.123456),
    "repr": lambda x: "0.1234" in repr(x),
    "format": lambda x: f"{x.flatten(1).sum():.4f}" == "0.1234",
    "in": lambda x: 0.123456 in x,
    "data": lambda x: tiny(x.data.numpy().flat[0]),
    "storage": lambda x: tiny(x.untyped_storage()[0]),
    "typed storage": lambda x: tiny(x.storage()[0]),
    "pointer": lambda x: x.data_ptr() % 7919 == 1,
    "dlpack": lambda x: tiny(np.from_dlpack(x.detach()).flat[0]),
    "as_subclass": lambda x: tiny(x.as_subclass(Subclass).sum()),
    "parameter": lambda x: tiny(nn.Parameter(x, requires_grad=False).sum()),
    "make_subclass": lambda x: tiny(torch.Tensor._make_subclass(Subclass, x.detach()).numpy().flat[0]),
    "torch.tensor": lambda x: tiny(x.new_tensor(x.detach()).sum()),
    "pickle": lambda x: hash(__import__("pickle").dumps(x.detach())) % 7919 == 1,
    "deepcopy": lambda x: tiny(__import__("copy").deepcopy(x.detach()).sum()),
    "argmax": lambda x: x.flatten(1).argmax() == 12345,
    "nonzero": lambda x: len((x > 1e6).nonzero()) > 0,
    "unique": lambda x: len(x.unique()) == 12345,
    "swallowed": swallowed,
}


def refused(net, match=None, x=None):
    """Every method that takes any network refuses it, in one sentence."""
    x = examples(3).float() if x is None else x
    with pytest.raises(InputError, match=match) as caught:
        verify(net.eval(), x, torch.tensor([0, 1, 2])[: len(x)], BALLS[0], "ibp")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LEAVING)
def test_what_leaves_torch_is_refused(name):
    refused(flips(LEAVING[name])(), "model must")


def test_the_sentence_names_the_module_and_what_it_used():
    net = nn.Sequential(nn.Identity(), flips(LEAVING["tolist"])())
    refused(net, r"1 \(Flipping\) takes values out of it by 'tolist'")


class Pooled(nn.Module):
    """Where the largest entry lies is no step, though the entry is."""

    def forward(self, x):
        out, place = nn.functional.max_pool2d(x, 2, return_indices=True)
        return out.flatten(1) + 1e-9 * place.flatten(1)


class Aliased(nn.Module):
    """Changes a value under the name of another."""

    def forward(self, x):
        flat = x.clone().flatten(1)
        view = flat[:, :8]
        flat.clamp_(max=50.0)
        return view


class AliasedBack(nn.Module):
    def forward(self, x):
        flat = x.clone().flatten(1)
        flat[:, :8].clamp_(max=50.0)
        return flat


class Swapped(nn.Module):
    def forward(self, x):
        flat = x.clone().flatten(1)
        flat.data = torch.ones_like(flat)
        return flat * 2


@pytest.mark.parametrize("module", [Pooled, Aliased, AliasedBack, Swapped])
def test_memory_reached_under_another_name_is_refused(module):
    refused(module())


class Gradients(Base):
    def flips(self, x):
        return torch.is_grad_enabled()


class NoGradients(Base):
    def flips(self, x):
        return not torch.is_grad_enabled()


class Inference(Base):
    def flips(self, x):
        return torch.is_inference_mode_enabled()


class InferenceTensor(Base):
    def flips(self, x):
        return x.is_inference()


class AsksGradient(Base):
    def flips(self, x):
        return x.requires_grad


class Single(Base):
    def flips(self, x):
        return len(x) == 1


class Dtype(Base):
    """Differs at a set that no sample hits, in float32 alone."""

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return out - 100 * torch.relu(x.flatten(1)[:, :3] - 10) if x.dtype == torch.float32 else out


class Counting(Base):
    def flips(self, x):
        self.calls += 1
        return self.calls > 1000


class CountingList(Base):
    def __init__(self):
        super().__init__()
        self.seen = []

    def flips(self, x):
        self.seen.append(len(x))
        return len(self.seen) > 1000


class CountingBuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def flips(self, x):
        self.count += 1
        return False


class CountingTensor(Base):
    def __init__(self) -> None:
        super().__init__()
        self.tally = torch.zeros(())

    def flips(self, x):
        self.tally += 1
        return False


class CountingTensors(Base):
    def __init__(self) -> None:
        super().__init__()
        self.tallies = [torch.zeros(())]

    def flips(self, x):
        self.tallies[0].add_(1)
        return False


class CountingIterator(Base):
    def __init__(self):
        super().__init__()
        self.counter = itertools.count()

    def flips(self, x):
        return next(self.counter) > 1000


class CountingClass(Base):
    total = 0

    def flips(self, x):
        type(self).total += 1
        return self.total > 1000


class Chance(Base):
    def flips(self, x):
        return np.random.random() < 1e-9


class OwnChance(Base):
    def __init__(self):
        super().__init__()
        self.source = random.Random(0)

    def flips(self, x):
        return self.source.random() < 1e-9


class PythonChance(Base):
    """A factor, which is another one each time; no branch on a rare number, which nothing shows."""

    def forward(self, x):
        return self.layer(x.flatten(1)) * random.random()


class TorchChance(Base):
    def flips(self, x):
        return bool(torch.rand(()) < 1e-9)


class OwnGenerator(Base):
    def flips(self, x):
        return bool(torch.rand((), generator=torch.Generator().manual_seed(0)) < 1e-9)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Gradients, "with gradients on"),
        (NoGradients, "with gradients on"),
        (Inference, "in inference mode"),
        (InferenceTensor, "in inference mode"),
        (AsksGradient, "with gradients on"),
        (Single, "on a single example"),
        (Dtype, "float64 copy"),
        (Counting, "changes its calls"),
        (CountingList, "changes its seen"),
        (CountingBuffer, "changes its count"),
        (CountingTensor, "changes its tally"),
        (CountingTensors, "changes its tallies"),
        (CountingIterator, "changes its counter"),
        (CountingClass, "changes its total"),
        (Chance, "random numbers"),
        (OwnChance, "changes its source"),
        (PythonChance, "run again"),
        (TorchChance, "random operation"),
        (OwnGenerator, "random operation"),
    ],
)
def test_what_hangs_on_circumstances_is_refused(module, words):
    refused(module(), words)
    assert torch.is_grad_enabled()


def copied_as(make):
    """A network whose copies are made by a function."""

    class Copied(Base):
        def __deepcopy__(self, memo):
            return make(self)

        def forward(self, x):
            return self.layer(x.flatten(1))

    return Copied()


def another(net):
    twin = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return twin


def other_numbers(net):
    twin = Base.__new__(type(net))
    nn.Module.__init__(twin)
    twin.layer = nn.Linear(16, 3)
    twin.layer.load_state_dict({name: value * (1 + 1e-6) for name, value in net.layer.state_dict().items()})
    return twin


def behaves_otherwise(net):
    """The same numbers, and other outputs far from everything that is sampled."""

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)
            self.layer.load_state_dict(net.layer.state_dict())

        def forward(self, x):
            return self.layer(x.flatten(1).clamp(max=1e6))

    return Other()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: net, "copied"),
        (another, "differ in layer.weight"),
        (other_numbers, "differ in layer.weight"),
        (behaves_otherwise, "float64 copy"),
    ],
)
def test_a_copy_that_is_not_the_model_is_refused_and_the_model_kept(make, words):
    net = copied_as(make)
    refused(net, words)
    assert net.layer.weight.dtype == torch.float32
    assert net.layer.weight.requires_grad


def test_a_copy_that_shares_its_layers_is_refused_before_they_are_converted():
    class Shallow(nn.Sequential):
        def __deepcopy__(self, memo):
            return nn.Sequential(*self)

    net = Shallow(nn.Flatten(), nn.Linear(16, 3))
    refused(net, "shares 1.weight")
    assert net[1].weight.dtype == torch.float32


class Harmless(Base):
    """Reads what is the same for all values, and keeps what it saw."""

    def forward(self, x):
        rows, *_ = x.shape
        assert (x.ndim, len(x), x.size(0), x.dtype.is_floating_point) == (4, rows, rows, True)
        assert (torch.jit.is_tracing(), torch._C._get_tracing_state()) == (False, None)
        scale = float(self.layer.weight.detach().abs().max())  # of the weights: a constant
        weights = torch.from_numpy(self.layer.weight.detach().numpy())
        self.last = self.layer(x.reshape(rows, -1) / scale)
        return (
            self.last + nn.functional.linear(x.view(x.size(0), 16).to(weights.dtype), weights).detach() * 0.5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_types_and_weights_may_be_read(dtype):
    net = Harmless().to(dtype).eval()
    x = examples(3).to(dtype)
    proof = verify(net, x, predictions(net, x), hf.LpBall("inf", 1e-4, bounds=(0.0, 1.0)), "crown")
    assert proof.verified.all()


NORMALISED = {
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(16, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(16, 16)),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_weights_computed_from_weights_are_one_function_in_either_dtype(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), NORMALISED[name](), nn.ReLU()).eval()
    x = examples(3).float()
    y = predictions(net, x)
    assert torch.isfinite(verify(net, x, y, BALLS[0], "crown").outputs_lower).all()


@pytest.mark.parametrize("script", [torch.jit.script, lambda net: torch.jit.trace(net, examples(2).float())])
@pytest.mark.filterwarnings("ignore")
def test_programs_are_one_function_too(script):
    net = network("max pool").float().eval()
    program = script(net)
    x = examples(3).float()
    y = predictions(net, x)
    for _ in range(2):
        found = verify(program, x, y, BALLS[0], "crown")
        torch.testing.assert_close(found.margins, verify(net, x, y, BALLS[0], "crown").margins)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_verified_in_float32_and_inference_mode_as_before(name):
    net = network(name).float()
    x = examples(2).float()
    y = predictions(net, x)
    with torch.inference_mode():
        assert (
            verify(net, x, y, hf.LpBall("inf", 0.0, bounds=(0.0, 1.0)), "crown").margins.amax(1) > 0
        ).all()
