"""The shape checks of the tests: they see a wrong shape in the first calls of each test, in functions, methods and constructors."""

import jaxtyping
import pytest
import torch

import holdfast as hf
import shapes
from holdfast.projections import project_l1
from holdfast.theory.factors import Factor


def wrong_shapes():
    """A function, a method and a constructor given a wrong shape."""
    loss = hf.CrossEntropy()
    yield lambda: project_l1(torch.zeros(2, 3, 4), torch.ones(3))
    yield lambda: loss.slope(torch.zeros(2, 3), torch.zeros(5, dtype=torch.long))
    yield lambda: Factor(gradients=torch.zeros(2))


@pytest.mark.parametrize("call", list(wrong_shapes()))
def test_a_wrong_shape_is_seen(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_first_calls_of_each_test_are_checked():
    for _ in range(shapes.CALLS):
        hf.CrossEntropy().slope(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises((IndexError, ValueError, RuntimeError)) as unchecked:
        hf.CrossEntropy().slope(torch.zeros(2, 3), torch.zeros(5, dtype=torch.long))
    assert not isinstance(unchecked.value, jaxtyping.TypeCheckError)
    shapes.next_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        hf.CrossEntropy().slope(torch.zeros(2, 3), torch.zeros(5, dtype=torch.long))
