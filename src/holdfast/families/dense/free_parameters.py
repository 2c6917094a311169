"""The free numbers of bound 2, and where they begin."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FreeParameters:
    """Free positive numbers of bound 2, one a layer, as factors on their natural scales (layer 1 has none).

    ``theta`` splits ``du = Delta x + W' dx``, ``theta2`` splits ``dx`` into its tangent and the rest,
    ``tau``, ``tau2`` and ``third`` split products. ``crossing`` says whether those of layer 3 are summed over
    examples first.
    """

    theta: tuple[float, ...]
    theta2: tuple[float, ...]
    tau: tuple[float, ...]
    tau2: float = 1.0
    third: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crossing: bool = True


def first_parameters(depth: int) -> FreeParameters:
    """A start for the search, and what rounds of training use: near where it ends in most networks. Every
    choice is valid.
    """
    return FreeParameters(theta=(3.0,) * depth, theta2=(0.3,) * depth, tau=(1.0,) * depth, tau2=0.35)
