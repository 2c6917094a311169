"""Rules for arguments that several data sets have."""

from typing import Any

import torch

from holdfast._rules import Rule, maybe, nearest_word, real, several, whole, word
from holdfast.data.features import FEATURES

CLASSES = maybe(several(whole(least=0), least=2, what="at least two different labels such as (3, 8)"))
SHARE = real(least=0, below=1)
FEATURE_MAP = word(*FEATURES)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _read_dtype(value: Any) -> torch.dtype:
    if value in DTYPES.values():
        return value  # type: ignore[no-any-return]
    if not isinstance(value, str) or value not in DTYPES:
        raise TypeError
    return DTYPES[value]


def _lower(value: Any) -> str:
    return nearest_word(value, tuple(DTYPES)) or "lower precision voids proofs"


DTYPE = Rule(what="torch.float32 or torch.float64", read=_read_dtype, hint=_lower)
