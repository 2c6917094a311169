"""`Linearised`: no proof (nobody bounds the rounding of what it is the tangent of), but its kernel is that
of its tangent for ever.
"""

from torch import nn

from holdfast.families.base import NetworkFacts
from holdfast.networks.linearised import Linearised


class LinearisedNetworks(NetworkFacts[Linearised]):
    name = "linearised"
    network = Linearised
    near_linear = True
    step_lasts = True

    def tangent_model(self, network: Linearised) -> nn.Module:
        return network.tangent_model()
