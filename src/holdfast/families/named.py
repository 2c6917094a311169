"""Networks with a name and no proof: they can be built again from what their class declares."""

from typing import Any

from torch import nn

from holdfast._registry import NETWORKS
from holdfast.families.base import NetworkFacts, Settings


class NamedNetworks(NetworkFacts[nn.Module]):
    """Networks that keep the arguments of their constructor as attributes."""

    def settings(self, network: nn.Module) -> Settings:
        return {key: getattr(network, key) for key in NETWORKS.settings(self.name) if key != "seed"}

    def made(self, **settings: Any) -> nn.Module:
        return self.network(**settings)


def named(name: str) -> NamedNetworks:
    """The facts of the network of this name."""
    kind = type("NamedNetworks", (NamedNetworks,), {"name": name, "network": NETWORKS[name]})
    facts: NamedNetworks = kind()
    return facts
