"""Networks: wide ones in the paper's scaling, those of the robustness literature, and anybody's `nn.Module`."""

from holdfast.networks.activations import Activation as Activation
from holdfast.networks.activations import activation_named as activation_named
from holdfast.networks.cnn7 import CNN7 as CNN7
from holdfast.networks.conv import MNISTConv as MNISTConv
from holdfast.networks.dense import Dense as Dense
from holdfast.networks.linearised import Linearised as Linearised
from holdfast.networks.normalize import Normalize as Normalize
from holdfast.networks.preact_resnet import PreActResNet as PreActResNet
from holdfast.networks.two_layer import TwoLayer as TwoLayer
from holdfast.networks.vit import ViT as ViT
from holdfast.networks.wide_resnet import WideResNet as WideResNet
from holdfast.networks.wrappers import LogOutputs as LogOutputs
