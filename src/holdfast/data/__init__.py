"""Data sets: examples, labels, the valid box, fixed features, and how far labels are apart."""

from holdfast.data.base import Bounds as Bounds
from holdfast.data.base import Dataset as Dataset
from holdfast.data.base import Part as Part
from holdfast.data.base import Split as Split
from holdfast.data.cifar import cifar as cifar
from holdfast.data.datasets import from_dataset as from_dataset
from holdfast.data.digits import digits as digits
from holdfast.data.extra import Extra as Extra
from holdfast.data.features import on_sphere as on_sphere
from holdfast.data.features import with_features as with_features
from holdfast.data.forced import forced as forced
from holdfast.data.forced import separated as separated
from holdfast.data.forced import shattered_points as shattered_points
from holdfast.data.forced import shattering as shattering
from holdfast.data.idx import idx as idx
from holdfast.data.image_folder import image_folder as image_folder
from holdfast.data.mapped import mapped as mapped
from holdfast.data.named import load as load
from holdfast.data.npz import npz as npz
from holdfast.data.separation import Separation as Separation
from holdfast.data.separation import separation as separation
from holdfast.data.split import split_rows as split_rows
from holdfast.data.synthetic import spheres as spheres
from holdfast.data.tensors import from_tensors as from_tensors
