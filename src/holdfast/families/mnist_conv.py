"""`MNISTConv`: no proof, but it is a stack of layers and can be built again."""

from typing import Any

from torch import nn

from holdfast.families.base import NetworkFacts, Settings
from holdfast.networks.conv import MNISTConv


class MNISTConvNetworks(NetworkFacts[MNISTConv]):
    name = "mnist-conv"
    network = MNISTConv

    def settings(self, network: MNISTConv) -> Settings:
        return {"classes": network.classes, "channels": network.channels, "size": network.size}

    def made(self, **settings: Any) -> MNISTConv:
        return MNISTConv(**settings)

    def stack(self, network: MNISTConv) -> tuple[tuple[int, ...], nn.Module]:
        return (network.channels, network.size, network.size), network.body
