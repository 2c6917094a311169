"""How many labellings of given points ReLU networks of one size can give at most, and hence the width that
fits them all.

All networks have ``m`` units in each of one or two hidden layers, biases, and one output whose sign is the
label.
"""

import math

from holdfast.errors import InputError

LN2 = math.log(2.0)


def shattering_width(points: int, dimension: int, hidden_layers: int = 1) -> int:
    """A width below which no network class fits every labelling of any ``points`` points in ``dimension``
    dimensions.

    ``N`` points have ``2^N`` labellings; the least ``m`` for which `log2_labellings` allows as many.

    Raises:
        InputError: sizes below 1, or more than 2 hidden layers.
    """
    if points < 1 or dimension < 1 or hidden_layers not in (1, 2):
        raise InputError(
            f"points and dimension must be >= 1 and hidden_layers 1 or 2, got {points}, {dimension} and "
            f"{hidden_layers}; fix these."
        )
    width = 1
    while log2_labellings(width, points, dimension, hidden_layers) < points * (1 - 1e-9):
        width += 1
    return width


def parameters(width: int, dimension: int, hidden_layers: int = 1) -> int:
    """Weights and biases of such a network."""
    return width * (dimension + 1) + (hidden_layers - 1) * width * (width + 1) + width + 1


def log2_labellings(width: int, points: int, dimension: int, hidden_layers: int = 1) -> float:
    """Upper bound, as a logarithm to base 2, of how many labellings of ``N`` points networks of this width
    give.

    A hidden unit's open half-space cuts ``N`` points in at most ``2 sum_(k <= d) C(N-1, k)`` ways (Cover
    1965), so the ``m`` units of the first layer have that to the power ``m`` patterns of activity. While a
    pattern holds, what the second layer's units see are polynomials of degree 2 in the parameters up to
    there, and the output is one of degree ``L + 1`` in all ``P``: ``M`` polynomials of degree ``q`` in
    ``P <= M`` variables have at most ``2 (2 e M q / P)^P`` sign patterns (Bartlett, Harvey, Liaw and
    Mehrabian 2019, arXiv 1703.02930, after Anthony and Bartlett 1999, Theorem 8.3; constants recalled). The
    product bounds the labellings.
    """
    exponent = width * _log2_half_spaces(points, dimension)
    if hidden_layers == 2:
        first_two = width * (dimension + 1) + width * (width + 1)
        exponent += _log2_signs(points * width, 2, first_two)
    return exponent + _log2_signs(points, hidden_layers + 1, parameters(width, dimension, hidden_layers))


def _log2_half_spaces(points: int, dimension: int) -> float:
    """``log2(2 sum_(k <= d) C(N-1, k))``; ``N`` for ``N <= d + 1``, where every subset is cut."""
    if points <= dimension + 1:
        return float(points)
    logs = [
        math.lgamma(points) - math.lgamma(k + 1) - math.lgamma(points - k)
        for k in range(min(dimension, points - 1) + 1)
    ]
    top = max(logs)
    return 1.0 + (top + math.log(math.fsum(math.exp(v - top) for v in logs))) / LN2


def _log2_signs(polynomials: int, degree: int, variables: int) -> float:
    if polynomials < variables:
        return float(polynomials)
    return min(
        float(polynomials),
        1.0 + variables * math.log2(2 * math.e * polynomials * degree / variables),
    )
