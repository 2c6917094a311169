"""`TwoLayer`: everything that is special to it."""

from holdfast.families.two_layer.family import TwoLayerFamily as TwoLayerFamily
