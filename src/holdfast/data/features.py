"""Feature maps the theory asks for: unit vectors whose last coordinate is a constant (Gao et al. 2019,
section 3).
"""

import dataclasses
import math

import torch

from holdfast._rules import FLAG, real, takes, word
from holdfast._tensors import flatten
from holdfast.data.base import DATASET, Dataset
from holdfast.errors import InputError

FEATURES = ("pixels", "sphere", "centred-sphere")


@takes(data=DATASET, norm=real(above=0), constant=real(), center=FLAG)
def on_sphere(
    data: Dataset, *, norm: float = math.sqrt(3) / 2, constant: float = 0.5, center: bool = False
) -> Dataset:
    """Each example scaled to a Euclidean norm, with a constant appended: ``x -> (norm x / ||x||, constant)``.

    The defaults give unit vectors with last coordinate 1/2, the paper's domain, where the constant plays the
    bias. That coordinate is marked as one an adversary may not change. A radius now counts in these scaled
    units, and the box is gone (``bounds=None``): after scaling, each example would have its own. Evaluated in
    float64.

    Args:
        data: any data set; each example is flattened.
        norm: Euclidean norm of the scaled part, > 0.
        constant: the last coordinate.
        center: subtract each feature's mean over the training rows first (another threat: distances change).

    Raises:
        InputError: an example of zero norm, a norm that is not positive, or centring without training rows.

    >>> import holdfast as hf
    >>> data = hf.data.on_sphere(hf.data.spheres(8, dimension=3, clusters=1))
    >>> data.x.shape, data.fixed.tolist()
    (torch.Size([8, 4]), [False, False, False, True])
    """
    x = flatten(data.x).double()
    if center:
        if not len(data.split.train):
            raise InputError("center needs training rows to average, got none; use center=False.")
        x = x - x[data.split.train].mean(0)
    lengths = x.norm(dim=1, keepdim=True)
    empty = (lengths[:, 0] == 0).nonzero()[:, 0]
    if len(empty):
        raise InputError(
            f"x must have no example of zero norm to be scaled to a sphere, got {len(empty)}, the first "
            f"being row {int(empty[0])}; drop it or keep the pixels."
        )
    points = torch.cat([x * (norm / lengths), torch.full_like(lengths, constant)], 1)
    held = torch.zeros(x.shape[1] + 1, dtype=torch.bool, device=x.device)
    if data.fixed is not None:
        held[:-1] = data.fixed.reshape(-1)
    held[-1] = True
    name = f"{data.name} on the sphere" + (", centred" if center else "")
    return dataclasses.replace(data, name=name, x=points.to(data.x.dtype), bounds=None, fixed=held)


@takes(data=DATASET, features=word(*FEATURES))
def with_features(data: Dataset, features: str) -> Dataset:
    """The data under a feature map: ``pixels``, ``sphere`` or ``centred-sphere``.

    ``pixels`` leaves the data unchanged, ``sphere`` is `on_sphere`, ``centred-sphere`` the same after
    centring.

    Args:
        data: any data set.
        features: the word.

    Raises:
        InputError: another word.

    >>> import holdfast as hf
    >>> hf.data.with_features(hf.data.spheres(8, dimension=3, clusters=1), "sphere").features
    4
    """
    return data if features == "pixels" else on_sphere(data, center=features == "centred-sphere")
