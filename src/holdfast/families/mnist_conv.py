"""`MNISTConv`: no proof, but it is a stack of layers."""

from torch import nn

from holdfast.families.named import NamedNetworks
from holdfast.networks.conv import MNISTConv


class MNISTConvNetworks(NamedNetworks):
    name = "mnist-conv"
    network = MNISTConv

    def stack(self, network: nn.Module) -> tuple[tuple[int, ...], nn.Module]:
        assert isinstance(network, MNISTConv)
        return (network.channels, network.size, network.size), network.body
