"""How far networks depart from their tangents: what all families share, and the local-linearity estimate
for any network.
"""

import importlib
from typing import Any

from holdfast.curvature.base import BlockCurvature as BlockCurvature
from holdfast.curvature.base import Curvature as Curvature
from holdfast.curvature.base import RoundCurvature as RoundCurvature
from holdfast.curvature.base import Tangent as Tangent
from holdfast.curvature.linearity import LocalLinearity as LocalLinearity

_OF_FAMILIES = ("DeepCurvature", "TwoLayerCurvature", "curvature_for")


def __getattr__(name: str) -> Any:
    """PEP 562: the families' bounds, which stand above this folder, are found under their earlier names
    too.
    """
    if name in _OF_FAMILIES:
        return getattr(importlib.import_module("holdfast.families"), name)
    raise AttributeError(f"module 'holdfast.curvature' has no attribute {name!r}")
