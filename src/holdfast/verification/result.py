"""What was proved of a network."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast._formats import count, percent
from holdfast._overrides import is_value_of
from holdfast._values import Fact, Tabular
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, Hinge, Loss


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification(Tabular):
    """What was proved, one row per example, on the CPU in float64.

    The claims are about the network in evaluation mode as a function of real numbers with the weights as
    stored; float64 rounding of the bounds themselves is subtracted from them. A float32 forward pass may
    differ from that function by its own rounding.

    Attributes:
        y: the labels.
        margins: lower bounds of ``z_y - z_j`` over the threat set for each class ``j``, 0 for ``j = y``
            (examples, classes); of ``sign f`` for one signed output (examples, 1).
        outputs_lower: lower bounds of each output over the threat set, by cheaper means than the margins, so
            looser.
        outputs_upper: upper bounds likewise.
        method: what was asked for.
        methods: what gave each example its bounds, for ``auto`` the last method it met; ``none`` where the
            time was over before any began: such an example has margins of -infinity.
        counterexample: where one was found, a point of the threat set whose margin is not above 0, in the
            examples' dtype; NaN elsewhere.
        out_of_time: undecided examples that the time given ended too soon for; more seconds may decide these,
            and no others.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> hf.verify(torch.nn.Identity(), x, y, "linf:0.125").margins
    tensor([[0.0000, 0.2500]], dtype=torch.float64)
    """

    y: Int[Tensor, " examples"]
    margins: Float[Tensor, "examples outputs"]
    outputs_lower: Float[Tensor, "examples outputs"]
    outputs_upper: Float[Tensor, "examples outputs"]
    method: str
    methods: tuple[str, ...]
    counterexample: Float[Tensor, "examples ..."]
    out_of_time: Bool[Tensor, " examples"]

    def _facts(self) -> list[Fact]:
        found = int((~self.counterexample.flatten(1).isnan().all(1)).sum()) if len(self.y) else 0
        facts = [
            Fact("examples", count(len(self.y))),
            Fact("method", self.method),
            Fact("verified accuracy", percent(self.verified_accuracy), "proved"),
            Fact("counterexamples", count(found), "observed"),
        ]
        late = int(self.out_of_time.sum())
        return [*facts, Fact("out of time", count(late))] if late else facts

    def _columns(self) -> dict[str, list[Any]]:
        return {
            "label": self.y.tolist(),
            "verified": self.verified.tolist(),
            "margin_lower_bound": self.margin_lower_bound.tolist(),
            "method": list(self.methods),
            "out_of_time": self.out_of_time.tolist(),
        }

    @property
    def margin_lower_bound(self) -> Float[Tensor, " examples"]:
        """A lower bound over the threat set of ``min_(j != y) z_y - z_j``; of ``sign f`` for one signed
        output.
        """
        if self.margins.shape[1] == 1:
            return self.margins[:, 0]
        return self.margins.scatter(1, self.y[:, None], torch.inf).amin(1)

    @property
    def verified(self) -> Bool[Tensor, " examples"]:
        """Whether every point of the threat set is classified as ``y``: the margin's lower bound is above
        0.
        """
        return self.margin_lower_bound > 0

    @property
    def verified_accuracy(self) -> float:
        """Fraction of examples verified: a lower bound of robust accuracy."""
        return float(self.verified.double().mean())

    def loss_upper_bound(self, loss: Loss | None = None) -> Float[Tensor, " examples"]:
        """An upper bound of the loss over the threat set; default cross-entropy,
        ``log(1 + sum_j exp(-margin_j))``.

        Raises:
            InputError: a loss that is not an increasing function of ``z_j - z_y`` alone.
        """
        loss = CrossEntropy() if loss is None else loss
        smoothed = isinstance(loss, CrossEntropy) and loss.label_smoothing > 0
        if smoothed or not any(is_value_of(type(loss), kind) for kind in (CrossEntropy, Hinge)):
            raise InputError(
                "loss must be cross-entropy without label smoothing or hinge to be bounded by margins, got "
                f"{loss.name}; use one of these."
            )
        if self.margins.shape[1] == 1:
            return loss(self.margins * (2 * self.y - 1)[:, None], self.y)
        return loss(-self.margins, self.y)
