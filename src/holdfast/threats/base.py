"""The threat: what an adversary may turn one example into. It owns all geometry.

``x`` is a batch of examples, ``points`` a batch of the same shape; the threat set of row ``i`` is ``B(x_i)``.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from holdfast._tensors import per_example
from holdfast._values import Fact, Shown
from holdfast.data.base import box_facts
from holdfast.threats._half import in_float32, representable

Points = Float[Tensor, "batch ..."]

SHRINK = 1e-5  # share of the radius that `project_inside` keeps clear of the edge
UNITS = 2.0**-22  # and share of the example's norm: four units of float32 rounding


class Threat(Shown, ABC):
    """A family of closed convex sets ``B(x)``, one for each example, each containing its example.

    >>> import torch
    >>> import holdfast as hf
    >>> threat = hf.threats.as_threat("linf:0.1")
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> threat.project(torch.tensor([[1.0, 0.45]]), x)
    tensor([[0.6000, 0.4500]])
    """

    coarse: torch.dtype | None = None
    """Of `in_steps_of`: the dtype of the points that `project_inside` gives; its projection moves points inside
    the set too.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Whatever the threat: half-precision points are worked on in float32, and what must lie in the
        set is rounded within it.
        """
        super().__init_subclass__(**options)
        for name, into_set in (
            ("project", False),
            ("maximise", False),
            ("project_inside", True),
            ("sample", True),
            ("sample_box", False),
        ):
            if name in cls.__dict__:
                setattr(cls, name, in_float32(cls.__dict__[name], into_set=into_set))

    def _facts(self) -> list[Fact]:
        bounds, fixed = getattr(self, "bounds", None), getattr(self, "fixed", None)
        return [Fact("threat", self.spec), *box_facts(bounds, fixed)]

    def in_steps_of(self, dtype: torch.dtype) -> "Threat":
        """The same sets for searches in a wider dtype whose points a model of this half-precision ``dtype``
        must be able to take.

        What `project_inside` gives is a number of ``dtype``. Examples are numbers of ``dtype``, in the wider one.
        """

        def project_inside(points: Points, x: Points) -> Points:
            fits = (points == points.to(dtype).to(points.dtype)).flatten(1).all(1) & self.contains(points, x)
            inside = representable(self.contains, self.project_inside(points, x), x, dtype)
            return torch.where(per_example(fits, x), points, inside)

        coarse = copy.copy(self)
        object.__setattr__(coarse, "coarse", dtype)
        object.__setattr__(coarse, "project_inside", project_inside)
        object.__setattr__(coarse, "check", lambda x: self.check(x.to(dtype)))
        return coarse

    @property
    @abstractmethod
    def spec(self) -> str:
        """Short text for terminals and run folders, e.g. ``linf:0.1``."""

    def check(self, x: Tensor) -> None:
        """Refuse examples this threat is not made for (outside its box, another shape). Waits for the device:
        call once.

        Raises:
            InputError: what was wrong, in how many rows, and the remedy. By default nothing is refused.
        """
        return

    @property
    def maximise_error(self) -> float:
        """By how much `maximise` can miss the largest ``<direction, x'>``, for directions of Euclidean
        length 1; 0 where it is exact to rounding.
        """
        return 0.0

    @abstractmethod
    def project(self, points: Points, x: Points) -> Points:
        """Nearest point of ``B(x_i)`` in the Euclidean norm, for each row: exact, up to the rounding of
        the dtype.
        """

    def projector(self, x: Points) -> Callable[[Points], Points]:
        """`project` onto the sets of these examples, for many points in turn: what depends on ``x`` alone is
        worked out once.

        Up to rounding in the points' own dtype; what leaves an attack is projected strictly inside afterwards.
        """
        return lambda points: self.project(points, x)

    @abstractmethod
    def project_inside(self, points: Points, x: Points) -> Points:
        """Points that pass `contains`, within rounding of ``points``: projection onto the set shrunk by
        ``(1 - 1e-5) r - 2^-22 ||x||``.
        """

    @abstractmethod
    def contains(self, points: Points, x: Points) -> Bool[Tensor, " batch"]:
        """Whether each point lies in ``B(x_i)``: evaluated in float64 with no tolerance; not-finite points
        do not.
        """

    @abstractmethod
    def sample(self, x: Points, *, generator: Generator) -> Points:
        """A random point of each ``B(x_i)`` (the law is stated by each threat)."""

    def sample_box(self, x: Points, *, generator: Generator) -> Points:
        """A random point of the box of valid examples, near ``x`` or not; where the threat has no box, as
        here, a random point of ``B(x)``.
        """
        return self.sample(x, generator=generator)

    @abstractmethod
    def maximise(self, direction: Points, x: Points) -> Points:
        """Linear maximiser: ``argmax <direction_i, x'>`` over ``x'`` in ``B(x_i)``, for each row."""

    @abstractmethod
    def step(self, gradient: Points, size: float) -> Points:
        """The step of length ``size`` (in the threat's norm, in input units) of steepest ascent along
        ``gradient``; 0 where the gradient is 0.
        """

    @abstractmethod
    def distance(self, first: Points, second: Points) -> Float[Tensor, " batch"]:
        """Distance of paired rows as this threat measures it: ``B(a)`` and ``B(b)`` cannot meet where it
        exceeds `reach`. Infinite where the rows differ in a feature that may not change."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """Largest distance (as `distance` measures it) between two examples whose sets can meet;
        ``2 * radius`` for balls.
        """

    @property
    @abstractmethod
    def step_scale(self) -> float:
        """A typical diameter half-length (the radius of a ball): attacks take their default step sizes in
        multiples of it.
        """
