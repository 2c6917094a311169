"""What the library knows of a class of networks: the contract that a family fulfils, most of it optional.

All methods are given the network itself, never a model around it, and `holdfast.families.exact` has found it
to be exactly one of the class before any method of a proof is called. `CONTRIBUTING.md` adds a family step by
step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._values import Shown
from holdfast.curvature.base import Curvature
from holdfast.curvature.lower_model import LowerModel, Radius
from holdfast.curvature.rounding import Rounding
from holdfast.losses import Loss, Outputs
from holdfast.networks.activations import IDENTITY
from holdfast.threats import LpBall

N = TypeVar("N", bound=nn.Module)

Slopes = Callable[[Outputs], Outputs]
ClosedForm = Callable[[Tensor, Slopes], tuple[Tensor, Tensor]]
"""``closed(points, slopes)``: the outputs, and the gradient in the points when ``slopes(outputs)`` is that
in the outputs.
"""
MarginExpansion = Callable[[Tensor, Tensor], Tensor]
"""``expansion(point, rows)`` for one example (features,) and functions of the outputs (rows, outputs): their
gradients in the example and, as a last column, a lower bound over the ball of what the linear term leaves."""
Settings = Mapping[str, Any]

PASS = 150
"""What one elementwise pass over the weights costs, in floating-point operations of a matrix product a
weight.
"""
SMALL = 8
"""Small operations cost up to so many times their count beside attacks in closed form (measured:
benchmarks/trace_overhead.py); large ones, such as passes through the network, cost about their count."""


def usual_recording(batch: int, attack_passes: int) -> float:
    """`Family.recording` as one more gradient and a few passes over the weights."""
    return PASS * SMALL / (4 * batch * (attack_passes + 1)) + 1 / (attack_passes + 1)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the tensors of a network must look like, from its own numbers.

    It is all that a family adds to the question whether a network is exact.

    Attributes:
        shapes: of every tensor that the proof reads, by the network's own names.
        lists: names of its `nn.ParameterList`; an exact network holds no other modules.
        units: hidden units; 0 where there are none.
        groups: of equal size, into which the units are cut.
        activation: must be one of the library's, whose constants are proved.

    >>> import holdfast as hf
    >>> net = hf.networks.TwoLayer(2, 2, width=8)
    >>> hf.families.family_of(net).sizes(net).shapes["weight"]
    (8, 2)
    """

    shapes: Mapping[str, tuple[int, ...]]
    lists: tuple[str, ...] = ()
    units: int = 0
    groups: int = 1
    activation: object = IDENTITY


@dataclass(frozen=True, kw_only=True, repr=False)
class Factor(Shown):
    """One layer's Jacobian, factored: row ``(c, i)`` is ``gradients[c, i] (x) inputs[i]``.

    With ``constant`` the row also has ``gradients[c, i]`` itself.

    Without inputs the gradients are the Jacobian.

    Attributes:
        gradients: of the outputs in the layer's units, (outputs, n, units).
        inputs: of the layer, (n, inputs); ``None`` for a layer of constants.
        constant: whether the layer has a bias.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.families.Factor(gradients=torch.ones(1, 4, 3), inputs=torch.ones(4, 2)).constant
    False
    """

    gradients: Float[Tensor, "outputs n units"]
    inputs: Float[Tensor, "n inputs"] | None = None
    constant: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Pass(Shown):
    """A pass over all examples at one network's weights, attacked; all but the points in float64.

    Attributes:
        initial: the network's initial weights, by its own names.
        points: attacked, (examples, ...), in the precision they came in; to be widened, some at a time.
        labels: (examples,).
        weights: ``pi_i`` of the examples.
        outputs: of the network at the attacked points.
        loss: the loss.
        curvature: the family's, as the certificate uses it.
        proved: whether that is a proof for this network.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2).double()
    >>> rows = {"points": x, "labels": torch.tensor([0, 1]), "outputs": torch.zeros(2, 1).double()}
    >>> rule = {"loss": hf.Hinge(), "curvature": hf.families.TwoLayerCurvature(), "proved": True}
    >>> passed = hf.families.Pass(initial=net.state_dict(), weights=torch.tensor([0.5, 0.5]).double(), **rows, **rule)
    >>> passed.loss(passed.outputs, passed.labels)
    tensor([1., 1.], dtype=torch.float64)
    """

    initial: Mapping[str, Tensor]
    points: Float[Tensor, "examples ..."]
    labels: Int[Tensor, " examples"]
    weights: Float[Tensor, " examples"]
    outputs: Float[Tensor, "examples outputs"]
    loss: Loss
    curvature: Curvature
    proved: bool


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a lower model is searched for, and how hard.

    Attributes:
        radius: at which its bound should be highest.
        evaluations: of candidates; 1 takes the pass as it stands.
        per_unit: whether to use a curvature matrix per unit, where the family has them.
        progress: called with the share done.

    >>> import holdfast as hf
    >>> hf.families.Search(radius=2.0).evaluations
    1
    """

    radius: Radius
    evaluations: int = 1
    per_unit: bool = False
    progress: Callable[[float], None] | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Expanded(Shown):
    """A lower model made from a pass.

    Attributes:
        lower: the lower model.
        outputs: at which the loss was expanded.
        how: in words, to follow "a pass at the last weights, ".

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast import trace
    >>> lower = trace.LowerModel(constant=0.5, balls=())
    >>> hf.families.Expanded(lower=lower, outputs=torch.zeros(2, 1), how="as it stands").lower.constant
    0.5
    """

    lower: LowerModel
    outputs: Float[Tensor, "examples outputs"]
    how: str


class NetworkFacts(Generic[N]):
    """A class of networks with what is known of it without any proof.

    Attributes:
        name: for run folders.
        network: the class.
        near_linear: whether its networks stay near their linearisation, so that the step size of theory fits.
        step_lasts: whether that step serves to the end of training, so that such networks are trained by
            gradient descent by default; others are trained by Adam (`holdfast.training.automatic`).

    >>> import holdfast as hf
    >>> [facts.name for facts in hf.families.registered()][:2]
    ['two-layer', 'dense']
    """

    name: ClassVar[str]
    network: ClassVar[type[nn.Module]]
    near_linear: ClassVar[bool] = False
    step_lasts: ClassVar[bool] = False

    def settings(self, network: N) -> Settings | None:
        """The arguments of `made`, as plain values, for run folders; ``None`` where the class is not to be
        built from them.
        """
        return None

    def made(self, **settings: Any) -> N:
        """A network of these settings; its weights are loaded afterwards."""
        raise NotImplementedError

    def stack(self, network: N) -> tuple[tuple[int, ...], nn.Module] | None:
        """The shape that inputs are brought into and the layers they then go through, where that is all
        the network does.
        """
        return None

    def tangent_model(self, network: N) -> nn.Module:
        """The network whose tangent kernel is this one's."""
        return network


class Family(NetworkFacts[N], ABC):
    """A class of networks with a proof: a rigorous bound of their curvature, and an allowance for rounding.

    Outputs are logits, or signed outputs for two classes. Networks hold their tensors themselves or in lists
    of parameters.

    >>> import holdfast as hf
    >>> hf.families.family_of(hf.networks.TwoLayer(2, 2, width=8)).name
    'two-layer'
    """

    @abstractmethod
    def example(self) -> N:
        """A network of the class, the smaller the better: what it holds is what an exact network holds."""

    @abstractmethod
    def sizes(self, network: N) -> Sizes:
        """What its tensors must look like."""

    @abstractmethod
    def curvature(self) -> Curvature:
        """The bound of ``f(W + Delta) - f(W) - Df(W) Delta``, a
        `holdfast.families.curvature.FamilyCurvature`.
        """

    @abstractmethod
    def rounding(self, network: N, initial: Mapping[str, Tensor], seen: Rounding) -> Rounding:
        """What the allowance for rounding is computed from: the figures of the rounds, ``input_norm`` the
        largest of `input_norms`, completed by those of the network. ``initial`` are its initial weights by
        its own names.
        """

    def input_norms(self, network: N, points: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        """Norms of the inputs as the first layer sees them, in float64."""
        norms: Tensor = points.flatten(1).double().norm(dim=1)
        return norms

    def recording(self, network: N, examples: int, batch: int, attack_passes: int) -> float:
        """What recording one epoch costs, as a share of training it: ``attack_passes + 1`` forward and
        backward passes, each two products of the batch and the weights."""
        return usual_recording(batch, attack_passes)

    def expanded(self, network: N, passed: Pass, search: Search) -> Expanded | None:
        """The best lower model that the pass yields; ``None``: that of the pass itself, as one round of
        training.
        """
        return None

    def describe(self, network: N) -> str:
        """For headlines: what network it is, without its width."""
        return type(network).__name__

    def kernel(self, network: N) -> Settings | None:
        """The arguments of the `holdfast.theory.KernelSpec` that its tangent kernel tends to as the width
        grows; ``None``: not known.
        """
        return None

    def factors(self, network: N, x: Float[Tensor, "n ..."]) -> Iterable[Factor] | None:
        """The Jacobian in the trained weights, layer by layer; ``None``: by automatic differentiation."""
        return None

    def closed_form(self, network: N) -> ClosedForm | None:
        """Outputs and input gradients without automatic differentiation, where that is faster."""
        return None

    def second_order(self, network: N, ball: LpBall) -> MarginExpansion | None:
        """Margins from the input Hessian; ``None``: none are known. An `InputError` says why this network
        has none.
        """
        return None

    def width_power(self, network: N) -> float | str:
        """The power of the width with which curvature falls, or why none is known."""
        return f"no formula for the width of {type(network).__name__} networks is known; a two-layer one has"

    def width_step(self, network: N) -> int:
        """What the width must be a multiple of."""
        return 1

    def of_width(self, network: N, width: int) -> N:
        """A network like this one, of another width."""
        raise NotImplementedError
