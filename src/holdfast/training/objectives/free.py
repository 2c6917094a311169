"""Adversarial training for free: the gradient of a step moves its weights and its points at once."""

from dataclasses import dataclass

from torch import Tensor

from holdfast._rules import COUNT, real, takes
from holdfast.attacks._search import finite
from holdfast.losses import PerExample
from holdfast.threats import Threat
from holdfast.threats.base import Points
from holdfast.training.objectives.base import Batch, Objective


@takes(replays=COUNT, step=real(above=0))
@dataclass(frozen=True)
class Free(Objective):
    """``loss(f(x'), y)``, ``x'`` moved by each step's own gradient (Shafahi et al. 2019, arXiv 1904.12843).

    Every minibatch is shown ``replays`` times in a row. One backward pass of a step gives the gradient for the weights,
    which take their step, and for the points, which take theirs: ``step`` radii of steepest ascent, then projection onto
    the threat set. The perturbation is kept from replay to replay, and by the place in the batch from minibatch to
    minibatch; it starts at 0. An epoch takes ``replays`` times the steps of another objective's, each at the cost of
    training without an attack: the paper divides the number of epochs by ``replays``.

    Steps are not recorded for a certificate, since their points were found at earlier weights. A resumed run goes on with the
    perturbation; one of several processes begins it anew.

    Attributes:
        replays: steps in a row on each minibatch, ``m`` in the paper.
        step: of the points, in radii of the threat.

    >>> import holdfast as hf
    >>> data = hf.data.spheres(20, dimension=3, clusters=1)
    >>> net = hf.networks.TwoLayer(3, 2, width=8)
    >>> free = hf.objectives.Free(replays=4)
    >>> run = hf.train(net, data, "l2:0.1", objective=free, epochs=2, batch_size=6, closing="none", progress=False)
    >>> run.metrics[-1]["rounds"]  # 2 epochs of 2 minibatches, each shown 4 times
    16
    """

    carries = True
    searches = False
    replays: int = 8
    step: float = 1.0

    @property
    def name(self) -> str:
        return "free"

    def losses(self, batch: Batch) -> PerExample:
        return batch.loss(batch.outputs, batch.y)

    def moved(self, points: Points, gradient: Tensor, x: Points, threat: Threat) -> Points:
        ahead = points + threat.step(finite(gradient), self.step * threat.step_scale)
        return threat.project(ahead, x)
