"""A function of a kernel's space written into the weights of a finite network: the existence proof,
executed.
"""

from copy import deepcopy

import torch
from torch import nn

from holdfast._arguments import MODEL
from holdfast._rules import kind, takes
from holdfast.errors import InputError
from holdfast.theory.optimal.curve import Solution
from holdfast.theory.optimal.function_class import weight_step


@takes(solution=kind(Solution, what="a Solution, one of RobustLossCurve.solutions"), model=MODEL)
def into_network(solution: Solution, model: nn.Module) -> nn.Module:
    """A copy of ``model`` that computes a solution of the kernel limit to first order.

    Its weights move by ``U = sum_j c_j df(x_j; W0)/dW``, with ``f = sum_j K(., x_j) c_j`` the solution.

    For two layers ``U_r = m^(-1/2) sum_j c_j a_r act'(w_r . z_j) z_j`` (Gao et al. 2019, arXiv 1906.07916:
    the step of their existence proof). To first order in ``U`` the network then computes
    ``sum_j K_m(., x_j) c_j`` with its own kernel ``K_m``, which tends to ``K`` as its width grows; so do
    ``||U||_F`` to the solution's norm and the network's robust loss to the solution's. At a finite width
    neither is exact: measure them (`holdfast.evaluate`, `holdfast.PGD`). The result can be where training
    starts: ``holdfast.train(model, ..., start=into_network(solution, model))``.

    Args:
        solution: from `optimal_robust_loss`, with the analytic kernel of this network (``ntk(model)``) or the
            network itself.
        model: the network at its initial weights ``W0``; it is left as it is.

    Raises:
        InputError: the network has another number of outputs than the solution, or nothing to train.

    >>> import holdfast as hf
    >>> data, net = hf.data.forced(dimension=2), hf.networks.TwoLayer(2, 2, width=8)
    >>> curve = hf.theory.optimal_robust_loss(hf.theory.ntk(net), data.x, data.y, None, [0.5])
    >>> hf.theory.into_network(curve.solutions[0], net)(data.x).detach().flatten().sign()  # label 0 is below 0
    tensor([-1., -1.,  1.])
    """
    moved = deepcopy(model).eval()
    exact = deepcopy(moved).double()
    with torch.no_grad():
        outputs = exact(solution.points[:1]).shape[1]
    if outputs != solution.coefficients.shape[1]:
        raise InputError(
            f"model must have {solution.coefficients.shape[1]} outputs, as the solution has, got "
            f"{outputs}; solve for its classes."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("model must have parameters that require a gradient, got none; unfreeze some.")
    step = weight_step(exact, solution.points, solution.coefficients)
    weights = dict(moved.named_parameters())
    with torch.no_grad():
        for name, change in step.items():
            weights[name].copy_((weights[name].double() + change).to(weights[name].dtype))
    return moved.train(model.training)
