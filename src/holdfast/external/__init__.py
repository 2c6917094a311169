"""What comes from outside and goes back: networks from files and import paths, and VNN-LIB properties."""

from holdfast.external.models import load_model as load_model
from holdfast.external.models import read_weights as read_weights
from holdfast.external.onnx import ImportedNetwork as ImportedNetwork
from holdfast.external.onnx import load_onnx as load_onnx
from holdfast.external.onnx_graph import ends_in_softmax as ends_in_softmax
from holdfast.external.properties import Case as Case
from holdfast.external.properties import Condition as Condition
from holdfast.external.properties import Property as Property
from holdfast.external.properties import counterexample_status as counterexample_status
from holdfast.external.properties import robustness_property as robustness_property
from holdfast.external.vnnlib import parse_vnnlib as parse_vnnlib
from holdfast.external.vnnlib import read_vnnlib as read_vnnlib
from holdfast.external.vnnlib import write_robustness as write_robustness
from holdfast.external.vnnlib import write_vnnlib as write_vnnlib
