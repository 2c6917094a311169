"""Randomised smoothing (Cohen et al. 2019, arXiv 1902.02918): a claim about another classifier, and a
probabilistic one.

The smoothed classifier predicts the class that the network gives most often under Gaussian noise. If that
class has probability at least ``p > 1/2``, no change of l2 length below ``sigma Phi^(-1)(p)`` alters it.
``p`` is estimated from samples, so each claim holds with probability ``1 - alpha`` over the noise drawn; it
says nothing of the network without noise.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from holdfast import _tensors
from holdfast._arguments import EXAMPLES, LABELS, MODEL, Array, paired
from holdfast._formats import count, percent, setting
from holdfast._rules import COUNT, SEED, real, takes
from holdfast._values import Drawn, Fact
from holdfast.attacks import checked_outputs, in_mode
from holdfast.errors import InputError
from holdfast.losses import correct, predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ABSTAIN = -1


@dataclass(frozen=True, kw_only=True, repr=False)
class SmoothedCertificate(Drawn):
    """Predictions of the smoothed classifier with the radii in which they cannot change.

    One row per example, on the CPU.

    Attributes:
        y: the labels.
        predicted: the smoothed classifier's class; -1 where it abstains, as no class is found to have more
            than half.
        probability: a lower bound of the predicted class's probability, by Clopper and Pearson.
        radius: l2, in the data's units; 0 where it abstains.
        sigma: standard deviation of the noise in each feature.
        samples: noise vectors behind each bound.
        alpha: each example's claim fails with at most this probability; all ``n`` hold together with
            ``1 - n alpha``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> found = hf.smooth(torch.nn.Identity(), x, y, sigma=0.25, samples=1000)
    >>> found.predicted, bool(found.radius > 0.5)
    (tensor([0]), True)
    """

    y: Int[Tensor, " examples"]
    predicted: Int[Tensor, " examples"]
    probability: Float[Tensor, " examples"]
    radius: Float[Tensor, " examples"]
    sigma: float
    samples: int
    alpha: float
    kind = "probabilistic"

    def _facts(self) -> list[Fact]:
        sure = f"with probability {setting(self.confidence)} each"
        return [
            Fact("examples", count(len(self.y))),
            Fact("noise", f"sigma {setting(self.sigma)}, {count(self.samples)} samples"),
            Fact(
                "smoothed accuracy",
                percent(self.verified_accuracy(0.0)) if len(self.y) else "not measured",
                sure,
            ),
            Fact(
                "median l2 radius",
                setting(float(self.radius.median())) if len(self.y) else "not measured",
                sure,
            ),
            Fact("abstained", count(int((self.predicted == ABSTAIN).sum()))),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return {
            "label": self.y.tolist(),
            "predicted": self.predicted.tolist(),
            "probability": self.probability.tolist(),
            "radius": self.radius.tolist(),
        }

    def _draw(self, axes: "Axes") -> None:
        right = self.radius[(self.predicted == self.y) & (self.radius > 0)].sort().values.tolist()
        shares = [(len(right) - k) / len(self.y) for k in range(len(right) + 1)]
        axes.step(
            [0.0, *right], [shares[0], *shares[:-1]], where="pre", label="smoothed classifier (probabilistic)"
        )
        axes.set(xlabel="l2 radius", ylabel="certified accuracy", ylim=(0, 1))

    @property
    def confidence(self) -> float:
        """``1 - alpha``, for each example by itself."""
        return 1 - self.alpha

    def verified(self, radius: float) -> Bool[Tensor, " examples"]:
        """Whether the smoothed classifier is right and cannot change within l2 distance ``radius``."""
        return (self.predicted == self.y) & (self.radius > radius)

    def verified_accuracy(self, radius: float) -> float:
        """Fraction of examples verified at a radius."""
        return float(self.verified(radius).double().mean())


@takes(
    model=MODEL,
    x=EXAMPLES,
    y=LABELS,
    sigma=real(above=0),
    samples=COUNT,
    selection=COUNT,
    alpha=real(above=0, below=1),
    batch_size=COUNT,
    seed=SEED,
)
def smooth(
    model: nn.Module,
    x: Array,
    y: Array,
    *,
    sigma: float,
    samples: int = 10_000,
    selection: int = 100,
    alpha: float = 0.001,
    batch_size: int = 1000,
    seed: int = 0,
) -> SmoothedCertificate:
    """Certify the classifier ``argmax_c P(model(x + sigma noise) = c)`` at each example.

    Args:
        model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs; taken in evaluation
            mode.
        x: examples (examples, ...); noise is not clipped to any box.
        y: labels ``0 .. classes-1``.
        sigma: standard deviation of the noise, in the data's units: larger radii, lower accuracy.
        samples: noise vectors that bound the probability; the radius cannot exceed
            ``sigma Phi^(-1)(alpha^(1/samples))``.
        selection: other noise vectors, which choose the class.
        alpha: probability of a false claim, for each example.
        batch_size: noisy examples at once.
        seed: of the noise.

    Raises:
        InputError: a number out of range, or examples or outputs that an attack would refuse.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    >>> found = hf.smooth(torch.nn.Identity(), x, y, sigma=0.25, samples=1000)
    >>> bool(found.radius > 0.5)
    True
    """
    from scipy.special import betaincinv, ndtri  # when first needed: scipy takes its time to import

    x, y = paired(model, x, y)
    device = _tensors.device_of(model, x)
    x, y = x.detach().to(device), y.to(device)
    generator = _tensors.generator(seed, device)
    predicted, bounds = [], []
    with torch.no_grad(), in_mode(model, "eval"):
        _check_rows(model, x, sigma, checked_outputs(model, x, y))
        for example in x:
            first = _counts(model, example, sigma, selection, batch_size, generator)
            top = int(first.argmax())
            hits = int(_counts(model, example, sigma, samples, batch_size, generator)[top])
            bound = float(betaincinv(hits, samples - hits + 1, alpha)) if hits else 0.0
            predicted.append(top if bound > 0.5 else ABSTAIN)
            bounds.append(bound)
    probability = torch.tensor(bounds, dtype=torch.float64)
    radius = sigma * torch.from_numpy(ndtri(probability.clamp(min=0.5).numpy()))
    return SmoothedCertificate(
        y=y.long().cpu(),
        predicted=torch.tensor(predicted),
        probability=probability,
        radius=radius,
        sigma=float(sigma),
        samples=samples,
        alpha=alpha,
    )


def _check_rows(model: nn.Module, x: Tensor, sigma: float, outputs: Tensor) -> None:
    """Refuse a model whose answer to one noisy example depends on the others in its batch: votes would not
    be independent.
    """
    noise = _tensors.generator(1, x.device)
    centre = _tensors.widened(x[:1])
    drawn = torch.randn((8, *x.shape[1:]), dtype=centre.dtype, device=x.device, generator=noise)
    points = (centre + sigma * drawn).to(x.dtype)
    whole = _tensors.answers(model, points)
    halves = [_tensors.answers(model, part) for part in _tensors.batches(points, 4)]
    size = 1e-3 * (1 + outputs.abs().amax())
    if bool(((whole - torch.cat(halves)).abs() > size).any()):
        raise InputError(
            "model must answer each example by itself to be smoothed, but its outputs depend on the rest of "
            "the batch or on chance; use evaluation mode, and no operation across examples."
        )


def _counts(
    model: nn.Module, example: Tensor, sigma: float, samples: int, batch_size: int, generator: Generator
) -> Int[Tensor, " classes"]:
    """How often each class is predicted under noise."""
    total: Tensor | None = None
    for part in _tensors.chunks(samples, batch_size):
        shape = (part.stop - part.start, *example.shape)
        # Half precision is the model's affair: the noise itself is drawn and added in float32.
        centre = _tensors.widened(example)
        noise = torch.randn(shape, dtype=centre.dtype, device=centre.device, generator=generator)
        outputs = _tensors.answers(model, (centre + sigma * noise).to(example.dtype))
        chosen = predictions(outputs)
        chosen = chosen[correct(outputs, chosen)]  # a tie, NaN or infinity is a vote for no class
        counts = torch.bincount(chosen, minlength=max(2, outputs.shape[1]))
        total = counts if total is None else total + counts
    return torch.zeros(2, dtype=torch.long) if total is None else total
