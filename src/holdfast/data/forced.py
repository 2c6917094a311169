"""Made-up data that force a robust network to be large, whatever its training: each says exactly what it
forces.

``rho`` is the radius of the threat over half the smallest distance between labels; see
`holdfast.theory.capacity` for the bounds.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._rules import COUNT, SEED, maybe, real, takes, whole
from holdfast._tensors import generator
from holdfast.data._rules import DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Dataset
from holdfast.data.features import with_features
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError

SPACING = 5.0  # between centres, in units of half the ball distance: balls of two centres stay 3 halves apart


@takes(
    examples=maybe(whole(least=2)),
    dimension=COUNT,
    features=FEATURE_MAP,
    validation=SHARE,
    test=SHARE,
    seed=SEED,
    dtype=DTYPE,
)
def forced(
    examples: int | None = None,
    dimension: int = 8,
    *,
    features: str = "pixels",
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """The unit vectors ``e_1 .. e_(n-1)``, label 0, and the origin, label 1 (Kim et al. 2025, arXiv 2510.24643).

    Smallest distance between labels: 1 in the l2, l-inf and l1 norm alike, hence ``rho = 2 radius``. What
    they force, for l2 balls and ``k = min(n-1, d)`` (proof in `holdfast.theory.capacity.forced_width`): the
    first hidden layer of any network that is constant on every ball is wider than ``rho^2 k``. A plain fit
    needs one unit, since a hyperplane parts the labels; that hyperplane is robust up to ``rho = 1/sqrt(k)``.
    ``k`` ReLU units are robust at every ``rho < 1``: ``sum_j relu(x_j - 1/2)`` is 0 around the origin and
    above 0 around each ``e_j``.

    Args:
        examples: ``n``, default ``dimension + 1``; beyond that many, ``2 e_1, 3 e_1, ..`` of label 0 are
            added, which force nothing.
        dimension: ``d``.
        features: see `with_features`.
        validation, test, seed: see `split_rows`; by default every example is for training.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: sizes too small.

    >>> import holdfast as hf
    >>> hf.data.forced(dimension=2).x
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    examples = dimension + 1 if examples is None else examples
    units = torch.eye(dimension, dtype=torch.float64)
    multiples = torch.arange(2, max(2, examples - dimension + 1), dtype=torch.float64)
    x = torch.cat([units[: examples - 1], multiples[:, None] * units[:1], torch.zeros(1, dimension).double()])
    y = (torch.arange(examples) == examples - 1).long()
    data = from_tensors(x, y, name="forced", validation=validation, test=test, seed=seed, dtype=dtype)
    return with_features(data, features)


@takes(
    pairs=COUNT,
    dimension=COUNT,
    labelling=maybe(whole(least=0)),
    distance=real(above=0),
    features=FEATURE_MAP,
    validation=SHARE,
    test=SHARE,
    seed=SEED,
    dtype=DTYPE,
)
def shattering(
    pairs: int = 2,
    dimension: int = 4,
    *,
    labelling: int | None = None,
    distance: float = 1.0,
    features: str = "pixels",
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Centres of ``2 pairs`` balls whose robust fits, over all labellings, shatter ``pairs * dimension`` points.

    With ``a = distance / 2``, bits ``y_ij = +1 or -1`` and anchors ``c_i = 5 a i e_1`` the centres are
    ``c_i + a y_i / sqrt(d)`` (label 1) and ``c_i - a y_i / sqrt(d)`` (label 0). The points are
    ``z_ij = c_i + a e_j / sqrt(d)`` (`shattered_points`): the distance of ``z_ij`` to the centre whose label
    is its bit is, squared, ``a^2 + a^2/d - 2 a^2/d = a^2 (1 - 1/d)``. So for l2 balls of
    ``rho >= sqrt(1 - 1/d)`` each ``z_ij`` lies in a ball of its own label: a network that is right on all
    balls labels the ``pairs * d`` points by the bits, and a class of networks that fits every ``labelling``
    has VC dimension ``pairs * d`` at least. The argument of Gao et al. 2019 (arXiv 1906.07916, recalled) and
    of Kim, Moon and Yun 2025 (arXiv 2510.24643, recalled) in the form proved here. ``distance`` is the
    smallest distance between labels, in the l2 norm.

    Args:
        pairs: balls of each label.
        dimension: ``d``; also the points a pair of balls decides.
        labelling: number whose binary digits are the bits, 0 .. ``2^(pairs d) - 1``; ``None`` draws them from
            ``seed``.
        distance: smallest Euclidean distance between labels.
        features, validation, test, dtype: as in `forced`.
        seed: of the bits and the split.

    Raises:
        InputError: sizes too small, or a number that is no labelling.

    >>> import holdfast as hf
    >>> data = hf.data.shattering(pairs=1, dimension=2, labelling=0b01)
    >>> data.y
    tensor([1, 0])
    """
    bits = _digits(labelling, pairs * dimension, 2, seed).reshape(pairs, dimension)
    half = distance / 2
    offset = half / math.sqrt(dimension) * (2.0 * bits.double() - 1.0)
    anchors = _anchors(pairs, dimension, half)
    x = torch.cat([anchors + offset, anchors - offset])
    y = torch.cat([torch.ones(pairs), torch.zeros(pairs)]).long()
    data = from_tensors(x, y, name="shattering", validation=validation, test=test, seed=seed, dtype=dtype)
    return with_features(data, features)


@takes(pairs=COUNT, dimension=COUNT, labelling=maybe(whole(least=0)), distance=real(above=0), seed=SEED)
def shattered_points(
    pairs: int, dimension: int, *, labelling: int | None = None, distance: float = 1.0, seed: int = 0
) -> tuple[Float[Tensor, "points features"], Int[Tensor, " points"]]:
    """The points ``z_ij`` of `shattering` with the same arguments, and the labels that a robust fit gives them.

    Args:
        pairs: balls of each label.
        dimension: ``d``.
        labelling: number whose binary digits are the bits; ``None`` draws them from ``seed``.
        distance: smallest Euclidean distance between labels.
        seed: of the bits.

    Returns:
        Points (pairs * dimension, dimension) in float64, and their labels.

    >>> import holdfast as hf
    >>> points, labels = hf.data.shattered_points(1, 2, labelling=0b01)
    >>> points.shape, labels
    (torch.Size([2, 2]), tensor([1, 0]))
    """
    bits = _digits(labelling, pairs * dimension, 2, seed)
    half = distance / 2
    steps = half / math.sqrt(dimension) * torch.eye(dimension, dtype=torch.float64)
    points = _anchors(pairs, dimension, half)[:, None] + steps
    return points.reshape(pairs * dimension, dimension), bits


@takes(
    examples=COUNT,
    dimension=whole(least=2),
    classes=whole(least=2),
    separation=real(above=0, below=2),
    labelling=maybe(whole(least=0)),
    features=FEATURE_MAP,
    validation=SHARE,
    test=SHARE,
    seed=SEED,
    dtype=DTYPE,
)
def separated(
    examples: int = 16,
    dimension: int = 8,
    *,
    classes: int = 2,
    separation: float = 0.5,
    labelling: int | None = None,
    features: str = "pixels",
    validation: float = 0.0,
    test: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Points on the unit sphere, any two at least ``separation`` apart (l2), with any labelling.

    A class of networks that fits every labelling of ``n`` points has VC dimension ``n`` at least, robust or
    not: this is what plain interpolation asks for, and `shattering` what robust interpolation adds.

    Args:
        examples, dimension, classes: sizes.
        separation: smallest distance of any two points, below 2.
        labelling: number whose digits in base ``classes`` are the labels; ``None`` draws them from ``seed``.
        features, validation, test, dtype: as in `forced`.
        seed: of the points, of the labels where they are drawn, and of the split.

    Raises:
        InputError: sizes too small, points that do not fit, or a labelling that leaves a class empty.

    >>> import holdfast as hf
    >>> data = hf.data.separated(4, dimension=3, labelling=0b0110)
    >>> data.y
    tensor([0, 1, 1, 0])
    """
    if examples < classes:
        raise InputError(
            f"separated needs an example a class, {classes} of them, got {examples} examples; raise "
            "their number."
        )
    labels = _digits(labelling, examples, classes, seed)
    if labelling is None:  # one example of each class, so that every class is there
        labels[:classes] = torch.arange(classes)
    elif len(torch.unique(labels)) < classes:
        raise InputError(
            f"labelling must give every one of {classes} classes an example, got {labelling}; take "
            "another number."
        )
    data = from_tensors(
        _spread(examples, dimension, separation, seed),
        labels,
        name="separated",
        validation=validation,
        test=test,
        seed=seed,
        dtype=dtype,
    )
    return with_features(data, features)


def _digits(number: int | None, count: int, base: int, seed: int) -> Int[Tensor, " count"]:
    """The last ``count`` digits of ``number`` in this base, the least first; random ones for ``None``."""
    if number is None:
        return torch.randint(base, (count,), generator=generator(seed))
    if not 0 <= number < base**count:
        raise InputError(
            f"labelling must be a whole number from 0 to {base}^{count} - 1, got {number}; leave it out "
            "for a random one."
        )
    digits = []
    for _ in range(count):
        number, digit = divmod(number, base)
        digits.append(digit)
    return torch.tensor(digits)


def _anchors(pairs: int, dimension: int, half: float) -> Float[Tensor, "pairs features"]:
    anchors = torch.zeros(pairs, dimension, dtype=torch.float64)
    anchors[:, 0] = SPACING * half * torch.arange(pairs)
    return anchors


def _spread(examples: int, dimension: int, apart: float, seed: int) -> Float[Tensor, "examples features"]:
    """Unit vectors, drawn uniformly and redrawn while too near to an earlier one."""
    random = generator(seed)
    found = torch.empty(0, dimension, dtype=torch.float64)
    for _ in range(200 * examples):
        drawn = torch.randn(1, dimension, generator=random, dtype=torch.float64)
        point = torch.nn.functional.normalize(drawn, dim=1)
        # 1e-5 is more than casting to float32 can take from a distance on the unit sphere
        if bool(((found - point).norm(dim=1) >= apart + 1e-5).all()):
            found = torch.cat([found, point])
            if len(found) == examples:
                return found
    raise InputError(
        f"separation must leave room for {examples} points in {dimension} dimensions, got {apart:g}; "
        "lower it or raise the dimension."
    )
