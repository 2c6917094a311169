"""Any `nn.Module` as a `Graph`: the model is run once, and each tensor operation that touches the input is
translated.

What is seen are torch's own basic operations, below layers and functions alike, so it makes no difference
whether a model is built from layers or written as tensor code.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution

from holdfast import _tensors
from holdfast.attacks import in_mode
from holdfast.errors import InputError
from holdfast.verification.affine_operations import AFFINE
from holdfast.verification.fixedness import ROUNDING, check_copy, check_same, unchanging
from holdfast.verification.graph import Affine, Graph, Source, Step
from holdfast.verification.linear_maps import reshape
from holdfast.verification.recording import LOST, ROWS, Tracer, Watch, shape_of
from holdfast.verification.scalar_operations import NONLINEAR

AGREEMENT = 1e-6


def trace(model: nn.Module, x: Tensor) -> Graph:
    """The graph of ``model``, in evaluation mode and float64, for examples like those in ``x``.

    The model itself is left as it is. Weights are taken to float64 without change, so the graph is the
    network as a function of real numbers; its own float32 outputs may differ from that by their rounding.

    Raises:
        InputError: a layer without a bound (its path and type are named), or a model whose outputs are not
            those of its steps (it depends on the values of its input, on other rows, on how it is run or on
            chance).
    """
    copied = copy.deepcopy(model)
    check_copy(copied, model)
    with torch.inference_mode(False), torch.no_grad(), in_mode(model, "eval"), unchanging(model):
        exact = copied.to(x.device).double().eval()
        for parameter in exact.parameters():
            parameter.requires_grad_(False)
        with unchanging(exact):
            probe = _rows(x.detach().double(), ROWS)
            first = _Run(exact, probe)
            check_same(first.tracer, _Run(exact, probe.clone()).tracer, torch.float64, "when it is run again")
            _check_circumstances(first, model, x)
        graph = _pruned(first.tracer.steps, first.output)
        _check_agreement(graph, exact, x)
    return graph


def _check_circumstances(first: "_Run", model: nn.Module, x: Tensor) -> None:
    """Whether the model itself does what its copy did, in its own dtype, with gradients, in inference mode
    and on other numbers of examples.
    """
    real = (value for value in (*model.parameters(), x) if value.dtype in ROUNDING)
    x = x.detach().clone().to(_tensors.device_of(model, x), next(real, x.double()).dtype)
    compare = partial(check_same, first.tracer, dtype=x.dtype)
    compare(_Run(model, _rows(x, ROWS)).tracer, when="than its float64 copy")
    compare(_Run(model, _rows(x, 1)).tracer, when="on a single example")
    compare(_Run(model, _rows(x, ROWS + 1)).tracer, when="on three examples")
    with torch.enable_grad():
        compare(_Run(model, _rows(x.requires_grad_(), ROWS)).tracer, when="with gradients on")
    with torch.inference_mode():
        compare(_Run(model, _rows(x, ROWS)).tracer, when="in inference mode")


def _rows(x: Tensor, rows: int) -> Tensor:
    """The first example, as often as there are rows."""
    return x[:1].repeat(rows, *([1] * (x.ndim - 1)))


class _Run:
    """One forward pass, seen.

    Attributes:
        tracer: what was recorded.
        output: the number of the value that the model answered with.
    """

    def __init__(self, model: nn.Module, probe: Tensor) -> None:
        self.tracer = tracer = Tracer(AFFINE | NONLINEAR, len(probe))
        hooks = [hook for name, module in model.named_modules() for hook in _announced(tracer, name, module)]
        tracer.bind(probe, tracer.record(Source(shape=shape_of(probe))))
        try:
            # What is compiled while it runs may perform other operations from the third run on.
            with optimized_execution(False), tracer, Watch(tracer):
                outputs = model(probe)
        except InputError:  # which is a ValueError too: an operation without a bound, already named
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise tracer.refused or InputError(
                f"model must run on {len(probe)} examples in {probe.dtype} to be verified, but does not "
                f"({str(error).strip().splitlines()[0]}); keep all it computes with in parameters and "
                "buffers, and in no copy of the model."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if tracer.refused is not None:  # and the model caught it
            raise tracer.refused
        number = tracer.number(outputs)
        if number is None:
            raise InputError(
                "model must return outputs computed from its input to be verified, but they do not depend on "
                "it; return a tensor, and compute it without leaving torch."
            )
        if number == LOST:
            raise tracer.refuse("memory changed or reached under another name as its output")
        self.output = number


def _announced(tracer: Tracer, name: str, module: nn.Module) -> list[Any]:
    if isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
        return []
    where = f"{name or 'the model'} ({type(module).__name__})"
    return [
        module.register_forward_pre_hook(lambda *_: tracer.place.append(where)),
        module.register_forward_hook(lambda *_: tracer.place.pop() and None),
    ]


def _pruned(steps: list[Step], output: int) -> Graph:
    """The steps the output needs, renumbered, with the output last and flat."""
    needed = {0, output}
    for number in range(output, 0, -1):
        if number in needed:
            needed.update(steps[number].inputs)
    kept = sorted(needed)
    new = {number: place for place, number in enumerate(kept)}
    result = [_renumbered(steps[number], new) for number in kept]
    shape = result[-1].shape
    if isinstance(result[-1], Affine) and len(shape) == 1:
        return Graph(steps=tuple(result))
    flat = reshape(shape, (torch.Size(shape).numel(),))
    result.append(Affine(shape=flat.target, terms=((len(result) - 1, flat),), offset=None))
    return Graph(steps=tuple(result))


def _renumbered(step: Step, new: dict[int, int]) -> Step:
    if isinstance(step, Affine):
        return replace(step, terms=tuple((new[index], linear) for index, linear in step.terms))
    return replace(step, inputs=tuple(new[index] for index in step.inputs))


def _check_agreement(graph: Graph, model: nn.Module, x: Tensor) -> None:
    """Run both on a few examples, moved so that branches taken at the traced one show."""
    rows = x.detach()[:3].double()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64).to(x.device)
    for points in (rows, rows + noise, noise - rows):
        expected = _tensors.applied(model, points).flatten(1)
        if not agrees(graph, points, expected, AGREEMENT):
            raise InputError(
                "model must be a fixed function of each example to be verified, but its outputs differ from "
                "those of its recorded steps; remove branches on values, randomness and operations across "
                "examples."
            )


def agrees(graph: Graph, points: Tensor, expected: Tensor, size: float) -> bool:
    """Whether the graph's outputs are the expected ones up to ``size`` of each output's own: a large
    output hides nothing of the others.
    """
    if expected.shape[1] != graph.outputs:
        return False
    far = (graph(points.double()) - expected.double()).abs().amax(0)
    return bool((far <= size * (1 + expected.double().abs().amax(0))).all())
