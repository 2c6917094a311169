"""Made-up data whose separation is known before anything is trained."""

import torch
from torch import Generator, Tensor

from holdfast._rules import COUNT, SEED, real, takes, whole
from holdfast._tensors import generator
from holdfast.data._rules import DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Dataset
from holdfast.data.features import with_features
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError


@takes(
    examples=COUNT,
    dimension=whole(least=2),
    classes=whole(least=2),
    clusters=COUNT,
    separation=real(above=0, below=2),
    spread=real(least=0, below=1),
    features=FEATURE_MAP,
    validation=SHARE,
    test=SHARE,
    seed=SEED,
    dtype=DTYPE,
)
def spheres(
    examples: int = 400,
    dimension: int = 10,
    *,
    classes: int = 2,
    clusters: int = 3,
    separation: float = 0.5,
    spread: float = 0.1,
    features: str = "pixels",
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Clusters on the unit sphere, examples of different labels at least ``separation`` apart (l2).

    Each class has ``clusters`` centres, drawn uniformly and redrawn while nearer than
    ``separation + 2 spread`` to a centre of another class; an example lies within ``spread`` of its centre.
    Hence l2 balls below ``separation / 2`` never meet.

    Args:
        examples: number of examples, dealt out evenly to the clusters.
        dimension: of the space; the sphere has one dimension less.
        classes: number of classes.
        clusters: centres of each class.
        separation: guaranteed smallest Euclidean distance between labels.
        spread: largest Euclidean distance of an example from its centre.
        features: see `with_features`.
        validation, test, seed: see `split_rows`; ``seed`` also draws the examples.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: sizes too small, or clusters that do not fit on the sphere.

    >>> import holdfast as hf
    >>> data = hf.data.spheres(20, dimension=3, clusters=1, separation=0.5)
    >>> hf.data.separation(data.x, data.y, norm="2").distance >= 0.5
    True
    """
    if examples < classes * clusters:
        raise InputError(
            f"spheres needs an example a cluster, {classes * clusters} of them, got {examples} examples; "
            "raise their number."
        )
    random = generator(seed)
    # 1e-5 is more than casting to float32 can take from a distance on the unit sphere
    centres = _centres(classes, clusters, dimension, separation + 2 * spread + 1e-5, random)
    home = torch.arange(examples) % (classes * clusters)
    centre = centres[home]
    offset = torch.randn(examples, dimension, generator=random, dtype=torch.float64)
    offset -= (offset * centre).sum(1, keepdim=True) * centre
    reach = spread * torch.rand(examples, 1, generator=random, dtype=torch.float64)
    # a tangent step of length t ends, back on the sphere, at most t from where it began
    points = torch.nn.functional.normalize(
        centre + reach * torch.nn.functional.normalize(offset, dim=1), dim=1
    )
    data = from_tensors(
        points, home % classes, name="spheres", validation=validation, test=test, seed=seed, dtype=dtype
    )
    return with_features(data, features)


def _centres(classes: int, clusters: int, dimension: int, apart: float, random: Generator) -> Tensor:
    """Unit vectors, the ``i``-th of class ``i % classes``; different classes at least ``apart``."""
    found = torch.empty(0, dimension, dtype=torch.float64)
    for _ in range(200 * classes * clusters):
        point = torch.nn.functional.normalize(
            torch.randn(1, dimension, generator=random, dtype=torch.float64), dim=1
        )
        rival = torch.arange(len(found)) % classes != len(found) % classes
        if bool(((found[rival] - point).norm(dim=1) >= apart).all()):
            found = torch.cat([found, point])
            if len(found) == classes * clusters:
                return found
    raise InputError(
        f"separation + 2 spread must leave room for {classes * clusters} clusters in {dimension} dimensions, "
        f"got {apart:.3g}; lower either, or raise the dimension."
    )
