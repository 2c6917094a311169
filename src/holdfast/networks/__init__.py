"""Networks: wide ones in the paper's scaling, a small conv net, and anybody's `nn.Module`."""

from holdfast.networks.activations import Activation as Activation
from holdfast.networks.activations import activation_named as activation_named
from holdfast.networks.conv import MNISTConv as MNISTConv
from holdfast.networks.dense import Dense as Dense
from holdfast.networks.linearised import Linearised as Linearised
from holdfast.networks.two_layer import TwoLayer as TwoLayer
from holdfast.networks.wrappers import LogOutputs as LogOutputs
