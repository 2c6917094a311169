"""The tangent of a network at its initial weights, as a network of its own: what training would be were
the kernel constant.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp

from holdfast._arguments import MODEL
from holdfast._rules import takes
from holdfast.errors import InputError

Weights = dict[str, Tensor]


@takes(model=MODEL)
class Linearised(nn.Module):
    """``f_lin(x; W) = f(x; W0) + <grad_W f(x; W0), W - W0>`` (Lee et al. 2019, arXiv 1902.06720).

    ``W0`` are the weights that ``model`` has now.

    Any module that torch differentiates in forward mode; ``model`` itself is copied and stays as it is.
    Linear in the trained weights: its tangent kernel is always that of ``model`` at ``W0``, and its curvature
    in the weights is 0. Attacks differentiate through it as through any other network. One pass takes about
    as long as two to three of ``model``.

    ``W`` are the parameters of the copy, named ``model.`` and their name there; frozen parameters and buffers
    enter as they are. The copy is always in evaluation mode: dropout is off and batch norm uses its running
    statistics, which stay.

    Args:
        model: any module that torch differentiates in forward mode.

    Shapes: those of ``model``.

    Raises:
        InputError: no parameter of ``model`` requires a gradient; at a call, torch cannot differentiate
            ``model`` in forward mode.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x = torch.nn.Linear(3, 2), torch.ones(1, 3)
    >>> bool((hf.networks.Linearised(net)(x) == net(x)).all())
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        # fixed here, since attacks switch requires_grad off for a while
        self.names = tuple(name for name, p in self.model.named_parameters() if p.requires_grad)
        if not self.names:
            raise InputError("model must have parameters that require a gradient, got none; unfreeze some.")
        weights = dict(self.model.named_parameters())
        for number, name in enumerate(self.names):
            self.register_buffer(f"initial_{number}", weights[name].detach().clone())

    @property
    def initial(self) -> Weights:
        """``W0`` by the names of ``model``'s parameters."""
        return {name: self.get_buffer(f"initial_{number}") for number, name in enumerate(self.names)}

    def tangent_model(self) -> nn.Module:
        """A copy of ``model`` at ``W0``."""
        copied = copy.deepcopy(self.model)
        copied.load_state_dict(self.initial, strict=False)
        return copied

    def train(self, mode: bool = True) -> "Linearised":
        """Sets the flag of this module alone: the copy stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        weights, start = dict(self.model.named_parameters()), self.initial

        def outputs(trained: Weights) -> Tensor:
            values: Tensor = functional_call(self.model, trained, (x,))
            return values

        try:
            return _first_order(outputs, start, {name: weights[name] - start[name] for name in self.names})
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            outputs(start)  # what fails in any case is no fault of the linearisation
            raise InputError(
                "Linearised needs a module that torch can differentiate in forward mode, got "
                f"{type(self.model).__name__} ({' '.join(str(error).split())[:200]}); rewrite the layer it "
                "names."
            ) from error


def _first_order(function: Callable[[Weights], Tensor], at: Weights, direction: Weights) -> Tensor:
    """``f(at) + <f'(at), direction>``."""
    derivative: Any = jvp
    with warnings.catch_warnings():
        # torch's own, when it first imports its rules
        warnings.simplefilter("ignore", DeprecationWarning)
        if forward_ad._current_level >= 0:  # within another forward derivative, such as that of a certificate
            value, change = derivative(function, (at,), (direction,))
            nested: Tensor = value + change
            return nested
        # not torch.func, whose tensors have no storage that hooks on saved tensors could ask for
        with forward_ad.dual_level():
            dual: Any = forward_ad
            parts = dual.unpack_dual(
                function({name: dual.make_dual(at[name], direction[name]) for name in at})
            )
            total: Tensor = parts.primal if parts.tangent is None else parts.primal + parts.tangent
            return total
