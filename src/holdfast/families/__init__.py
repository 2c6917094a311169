"""Networks with a proof: each family owns all that is special to its networks, and everybody else asks
here.
"""

from holdfast.families.base import Expanded as Expanded
from holdfast.families.base import Factor as Factor
from holdfast.families.base import Family as Family
from holdfast.families.base import NetworkFacts as NetworkFacts
from holdfast.families.base import Pass as Pass
from holdfast.families.base import Search as Search
from holdfast.families.base import Sizes as Sizes
from holdfast.families.curvature import FamilyCurvature as FamilyCurvature
from holdfast.families.dense.curvature import DeepCurvature as DeepCurvature
from holdfast.families.registry import curvature_for as curvature_for
from holdfast.families.registry import family_of as family_of
from holdfast.families.registry import register as register
from holdfast.families.registry import registered as registered
from holdfast.families.registry import unregister as unregister
from holdfast.families.registry import why_not as why_not
from holdfast.families.two_layer.curvature import TwoLayerCurvature as TwoLayerCurvature
