"""How far a network departs from its tangent: proved for dense networks of any depth, taken as 0 (an estimate) elsewhere."""

from holdfast.curvature.base import BlockCurvature as BlockCurvature
from holdfast.curvature.base import Curvature as Curvature
from holdfast.curvature.base import RoundCurvature as RoundCurvature
from holdfast.curvature.choose import curvature_for as curvature_for
from holdfast.curvature.deep import DeepCurvature as DeepCurvature
from holdfast.curvature.linearity import LocalLinearity as LocalLinearity
from holdfast.curvature.two_layer import TwoLayerCurvature as TwoLayerCurvature
