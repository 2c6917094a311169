"""`Dense`: everything that is special to it."""

from holdfast.families.dense.family import DenseFamily as DenseFamily
