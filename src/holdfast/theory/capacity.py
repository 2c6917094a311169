"""Lower bounds on width and parameters of networks that fit, plainly or robustly: what is proved with
constants, and what is an order only.

``n`` examples of ``d`` features an adversary may change; ``rho`` is the radius over half the smallest
distance between labels, so that ``rho < 1`` says that threat sets of different labels do not meet. Every
bound states its source, how it is known and what it assumes.
"""

import math
from dataclasses import dataclass
from typing import Literal

from holdfast._formats import number
from holdfast._rules import COUNT, TEXT, real, takes, whole
from holdfast._values import Fact, Shown
from holdfast.data import Dataset, separation
from holdfast.data.base import DATASET
from holdfast.errors import InputError
from holdfast.theory.projected import projected_width
from holdfast.theory.sign_patterns import shattering_width
from holdfast.threats import THREAT, LpBall, Threat, is_ball

Kind = Literal["proved", "order only"]
PROVED: Kind = "proved"
ORDER: Kind = "order only"


@dataclass(frozen=True, kw_only=True, repr=False)
class CapacityBound(Shown):
    """A lower bound on the size of a network that fits.

    Attributes:
        of: what is bounded: ``first hidden width``, ``width`` (of every hidden layer) or ``parameters``.
        fit: ``plain``, ``robust`` or ``smooth`` (of Lipschitz constant of order 1).
        value: the bound; for ``order only`` the expression without its unknown constant: for comparing, never
            a claim.
        kind: ``proved`` (with its constants) or ``order only``.
        data: what it is about: ``these data``, ``some labelling`` or ``some data`` of this size.
        formula: the expression.
        assumes: what must hold.
        source: paper with its arXiv number, or the place of the proof; ``(recalled)`` where the text was not
            at hand.

    >>> import holdfast as hf
    >>> hf.theory.capacity.forced_width(0.8, examples=9, dimension=8).value
    6
    """

    of: Literal["first hidden width", "width", "parameters"]
    fit: Literal["plain", "robust", "smooth"]
    value: float | int
    kind: Kind
    data: Literal["these data", "some labelling", "some data"]
    formula: str
    assumes: str
    source: str

    def _facts(self) -> list[Fact]:
        return [
            Fact(
                f"{self.fit} fit of {self.data}",
                f"{self.of} at least {number(self.value, trim=True)}",
                self.kind,
            ),
            Fact("formula", self.formula),
            Fact("assumes", self.assumes),
            Fact("source", self.source),
        ]


@takes(data=DATASET, threat=THREAT)
def robustness_ratio(data: Dataset, threat: Threat) -> float:
    """``rho``: the threat's radius over half the smallest distance between labels of the training part; exact.

    The distance is evaluated in float64 over all opposite-label pairs (see `holdfast.data.separation`),
    features that may not change set aside; infinite distance gives 0. At ``rho >= 1`` no classifier is robust
    on these data.

    Args:
        data: its training part counts.
        threat: an l2, l-inf or l1 ball; the distance is in its norm.

    Raises:
        InputError: a threat that is not an l2, l-inf or l1 ball.

    >>> import holdfast as hf
    >>> hf.theory.capacity.robustness_ratio(hf.data.forced(dimension=2), hf.LpBall("2", 0.25))
    0.5
    """
    ball, part = _ball(threat), data.train
    found = separation(part.x, part.y, norm=ball.norm, radius=ball.radius, fixed=ball.fixed)
    if found.distance == 0:
        return math.inf
    return ball.radius / found.largest_compatible_radius


@takes(data=DATASET, norm=TEXT, rho=real(least=0))
def radius_for(data: Dataset, norm: str, rho: float) -> float:
    """The radius at which these data have this ``rho``: ``rho distance / 2``, in input units.

    The data's own fixed features stay fixed.

    Args:
        data: its training part counts.
        norm: ``"1"``, ``"2"`` or ``"inf"``.
        rho: at least 0.

    Raises:
        InputError: ``rho`` negative, or no opposite-label pair at a finite distance above 0.

    >>> import holdfast as hf
    >>> hf.theory.capacity.radius_for(hf.data.forced(dimension=2), "2", 0.5)
    0.25
    """
    part = data.train
    distance = separation(part.x, part.y, norm=norm, fixed=data.fixed).distance
    if not 0 < distance < math.inf:
        raise InputError(
            f"rho needs differently labelled examples at a finite distance above 0, got {distance}; name "
            "the radius in its place."
        )
    return rho * distance / 2


@takes(rho=real(least=0), examples=whole(least=2), dimension=COUNT)
def forced_width(rho: float, examples: int, dimension: int) -> CapacityBound:
    """Least first hidden width of a robust fit of `holdfast.data.forced` (Kim et al. 2025, arXiv 2510.24643).

    More than ``rho^2 k`` units, ``k = min(n-1, d)`` (for ``rho > 1`` no width fits, and ``k + 1`` is as true
    as any). Proof: let the first layer be ``W x + b`` and ``P`` the orthogonal projection onto the row space
    of ``W``, of rank ``m`` at most. The network is a function of ``P x``. If ``||P e_j|| <= 2 r = rho``, the
    points ``P e_j / 2`` and ``e_j - P e_j / 2`` lie in the ball of the origin and in that of ``e_j``, and
    both have the image ``P e_j / 2``: one of them is misclassified. So ``||P e_j||^2 > rho^2`` for each
    ``j``, and adding up ``m >= trace P >= sum_j ||P e_j||^2 > rho^2 k``.

    Args:
        rho: radius over half the smallest distance between labels.
        examples: ``n``.
        dimension: ``d``.

    >>> import holdfast as hf
    >>> hf.theory.capacity.forced_width(0.8, examples=9, dimension=8).value
    6
    """
    k = min(examples - 1, dimension)
    return CapacityBound(
        of="first hidden width",
        fit="robust",
        value=_above(min(rho, 1.0) ** 2 * k),
        kind=PROVED,
        data="these data",
        formula="> rho^2 min(n - 1, d)",
        assumes="the forced data, l2 balls without a box; any network whose first layer is affine",
        source="Kim, Moon and Yun 2025, arXiv 2510.24643 (statement recalled; proof in "
        "holdfast.theory.capacity)",
    )


@takes(data=DATASET, threat=THREAT)
def first_hidden_width(data: Dataset, threat: Threat) -> CapacityBound:
    """Least first hidden width of a robust fit of these very data.

    The argument is that of `forced_width`, on any differences of labels.

    The proof and its computation are in `holdfast.theory.projected`. Where a box cuts the threat sets only
    the trivial 1 is claimed.

    Args:
        data: its training part counts.
        threat: an l2, l-inf or l1 ball.

    >>> import holdfast as hf
    >>> data = hf.data.forced(dimension=8)
    >>> hf.theory.capacity.first_hidden_width(data, hf.LpBall("2", 0.25)).value
    2
    """
    ball, part = _ball(threat), data.train
    value, why = projected_width(part.x, part.y, ball, ball.fixed)
    return CapacityBound(
        of="first hidden width",
        fit="robust",
        value=value,
        kind=PROVED,
        data="these data",
        formula="least m with min over weights w of the m largest eigenvalues of sum_k w_k v_k v_k^T "
        "above (2 r)^2",
        assumes=why,
        source="proof in holdfast.theory.projected, after Kim, Moon and Yun 2025, arXiv 2510.24643",
    )


@takes(data=DATASET, threat=THREAT, hidden_layers=whole(least=1, most=2))
def bounds(data: Dataset, threat: Threat, *, hidden_layers: int = 1) -> tuple[CapacityBound, ...]:
    """Every bound known for data of this size under this threat, those that are proved first.

    Args:
        data: its training part counts.
        threat: an l2, l-inf or l1 ball.
        hidden_layers: 1 or 2, of the ReLU networks that the bounds on some labelling are about.

    Raises:
        InputError: a threat that is not a ball, or another number of hidden layers.

    >>> import holdfast as hf
    >>> found = hf.theory.capacity.bounds(hf.data.forced(dimension=8), hf.LpBall("2", 0.25))
    >>> found[0].kind, found[0].of
    ('proved', 'first hidden width')
    """
    ball, part = _ball(threat), data.train
    rho, n = robustness_ratio(data, ball), len(part)
    fixed = ball.fixed
    d = data.features if fixed is None else int((~fixed).sum())
    proved = [first_hidden_width(data, ball), _shatters(n, d, hidden_layers, "plain", 1)]
    k = shattered_coordinates(rho, d)
    if ball.norm == "2" and k > 1:
        proved.append(_shatters(n, d, hidden_layers, "robust", k))
    return (*proved, *orders(rho, n, d))


@takes(rho=real(least=0), dimension=COUNT)
def shattered_coordinates(rho: float, dimension: int) -> int:
    """Points that one pair of balls decides: the largest ``k <= d`` with ``rho >= sqrt(1 - 1/k)``.

    See `holdfast.data.shattering` in ``k`` dimensions.

    Args:
        rho: radius over half the smallest distance between labels.
        dimension: ``d``.

    >>> import holdfast as hf
    >>> hf.theory.capacity.shattered_coordinates(0.8, 10)
    2
    """
    if rho >= 1:
        return dimension
    return max(1, min(dimension, math.floor(1 / (1 - rho**2) * (1 + 1e-12))))


def _shatters(n: int, d: int, hidden_layers: int, fit: Literal["plain", "robust"], k: int) -> CapacityBound:
    points = n if k == 1 else (n // 2) * k
    return CapacityBound(
        of="width",
        fit=fit,
        value=shattering_width(points, d, hidden_layers),
        kind=PROVED,
        data="some labelling",
        formula=f"least m whose sign patterns on {points:,} points are not fewer than 2^{points}",
        assumes=f"ReLU networks with {hidden_layers} hidden layer{'s' if hidden_layers > 1 else ''} of "
        "one width, biases, one output"
        + ("; l2 balls, data as in holdfast.data.shattering" if k > 1 else ""),
        source="Cover 1965 and Bartlett et al. 2019, arXiv 1703.02930 (constants of its sign-pattern "
        "lemma recalled)",
    )


@takes(rho=real(least=0), examples=whole(least=2), dimension=COUNT)
def orders(rho: float, examples: int, dimension: int) -> tuple[CapacityBound, ...]:
    """Bounds that are known up to constants and logarithms only: ``value`` is the bare expression.

    None of them is a claim about one data set.

    * plain: ``sqrt(n)`` parameters are necessary, and enough up to logarithms (Vardi, Yehudai and Shamir
      2021);
    * robust, ``rho`` near 1: ``sqrt(n d)`` parameters, by the VC dimension ``n d`` against at most ``O(P^2)``
      (Gao et al. 2019);
    * robust, any ``rho``: ``(rho^2 min(n, d) + 1) d + sqrt(n min(1 / (1 - rho^2), d))`` parameters (Kim, Moon
      and Yun 2025);
    * robust, ``rho`` fixed as ``n`` grows: width ``log n`` is necessary and, for ``rho <= 1 / sqrt(d)`` or
      so, enough (Egosi, Yehudai and Shamir 2025);
    * smooth: ``n d`` parameters for a fit of noisy labels with a Lipschitz constant of order 1 (Bubeck and
      Sellke 2021).

    Args:
        rho: radius over half the smallest distance between labels.
        examples: ``n``.
        dimension: ``d``.

    >>> import holdfast as hf
    >>> {bound.kind for bound in hf.theory.capacity.orders(0.5, examples=9, dimension=8)}
    {'order only'}
    """
    n, d, r = examples, dimension, min(rho, 1.0)
    spread = min(1 / (1 - r**2), d) if r < 1 else d
    return (
        _order(
            "parameters",
            "plain",
            math.sqrt(n),
            "sqrt(n)",
            "ReLU networks of any depth, distinct points",
            "Vardi, Yehudai and Shamir 2021, arXiv 2110.03187",
        ),
        _order(
            "parameters",
            "robust",
            math.sqrt(n * d),
            "sqrt(n d)",
            "rho near 1; piecewise linear networks of any depth",
            "Gao et al. 2019, arXiv 1906.07916 (recalled)",
        ),
        _order(
            "parameters",
            "robust",
            (r**2 * min(n, d) + 1) * d + math.sqrt(n * spread),
            "(rho^2 min(n, d) + 1) d + sqrt(n min(1/(1 - rho^2), d))",
            "l2 balls, ReLU networks of any depth",
            "Kim, Moon and Yun 2025, arXiv 2510.24643 (recalled)",
        ),
        _order(
            "width",
            "robust",
            math.log(max(n, 2)),
            "log n",
            "width below d, radius independent of n; any depth",
            "Egosi, Yehudai and Shamir 2025, arXiv 2502.11162",
        ),
        _order(
            "parameters",
            "smooth",
            n * d,
            "n d",
            "Lipschitz constant of order 1, noisy labels, isoperimetric inputs, weights of polynomial size",
            "Bubeck and Sellke 2021, arXiv 2105.12806",
        ),
    )


def _order(
    of: Literal["width", "parameters"],
    fit: Literal["plain", "robust", "smooth"],
    value: float | int,
    formula: str,
    assumes: str,
    source: str,
) -> CapacityBound:
    return CapacityBound(
        of=of,
        fit=fit,
        value=value,
        kind=ORDER,
        data="some data",
        formula=formula,
        assumes=assumes,
        source=source,
    )


def _above(value: float) -> int:
    """The least whole number above ``value``, erring downwards by rounding: a bound must not be too high."""
    return max(1, math.floor(value * (1 - 1e-12)) + 1)


def _ball(threat: Threat) -> LpBall:
    if not is_ball(threat):
        raise InputError(
            f"capacity bounds need an l2, l-inf or l1 ball, got {threat.spec}; use one as in l2:0.1."
        )
    return threat
