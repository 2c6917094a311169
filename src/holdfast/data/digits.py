"""The 1,797 digits that come with scikit-learn: nothing to download."""

from collections.abc import Sequence

import torch

from holdfast._rules import SEED, takes
from holdfast.data._rules import CLASSES, DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Dataset
from holdfast.data.features import with_features
from holdfast.data.tensors import from_tensors


@takes(classes=CLASSES, features=FEATURE_MAP, validation=SHARE, test=SHARE, seed=SEED, dtype=DTYPE)
def digits(
    classes: Sequence[int] | None = None,
    features: str = "pixels",
    *,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """8 x 8 grey pixels in [0, 1], shape (64,), ten classes: scikit-learn's copy (Alpaydin and Kaynak 1998, UCI).

    ``classes=(3, 8), features="sphere", validation=0, test=0`` is the setting of the reference figures (357
    examples).

    Args:
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all ten.
        features: ``pixels``, ``sphere`` or ``centred-sphere``; see `with_features`.
        validation, test, seed: shares of each class, see `split_rows`.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: an unknown class or feature map, or shares that leave nothing to train on.

    >>> import holdfast as hf
    >>> data = hf.data.digits(classes=(3, 8))
    >>> data.features, data.classes, data.bounds
    (64, 2, (0.0, 1.0))
    """
    from sklearn.datasets import load_digits  # seconds to import, and only this function needs it

    table = load_digits()
    data = from_tensors(
        torch.tensor(table.data, dtype=torch.float64) / 16,
        torch.tensor(table.target),
        (0.0, 1.0),
        classes=classes,
        name="digits" if classes is None else f"digits {','.join(map(str, classes))}",
        validation=validation,
        test=test,
        seed=seed,
        dtype=dtype,
    )
    return with_features(data, features)
