"""What experiments share: the digits of the reference figures, two-layer networks on them, training, the
worst loss known.
"""

import math

import torch

from holdfast.attacks import FGSM, PGD, Attack
from holdfast.config.schema import CertificateSettings
from holdfast.data import Dataset, digits
from holdfast.data.selection import keep_examples
from holdfast.jobs.train import train
from holdfast.lab.reproduce.base import Criterion, Report, Scale
from holdfast.losses import CrossEntropy
from holdfast.networks import TwoLayer
from holdfast.record.run import Run
from holdfast.theory import RobustLossCurve, ntk, optimal_robust_loss
from holdfast.threats import LpBall
from holdfast.training.optimizers import SGD

RADIUS = 0.1
LOG_2 = math.log(2)
"""The logistic loss of the network at its start, whose output is 0."""
STEP = 4.0
"""``1 / L`` of gradient descent: the logistic loss has curvature 1/4 at most, the network's gradient norm
1 or so at a unit vector.
"""
PGD_10 = PGD(steps=10, start="example")
ONE_STEP = FGSM()
DIGITS = (
    "Digits 3 against 8, centred and scaled to the sphere, last coordinate 1/2; l2 0.1 in the other "
    "64; logistic loss"
)
NOT_CENTRED = DIGITS.replace("centred and scaled", "scaled")

ALL_CERTIFIED = Criterion(
    key="uncertified",
    what="runs whose certificate has another status than certified",
    relation="<=",
    bound=0.0,
    why="an estimate or a void certificate proves nothing",
)


def pair(scale: Scale, *, centred: bool = True) -> tuple[Dataset, LpBall]:
    """Digits 3 and 8 on the sphere (`docs/explanations/certificate.md`), all 357 or the first 100, and the
    threat.
    """
    data = digits(
        classes=(3, 8), features="centred-sphere" if centred else "sphere", validation=0.0, test=0.0
    )
    if scale.quick:
        data = keep_examples(data, 100)
    return data, LpBall("2", RADIUS, fixed=data.fixed)


def network(data: Dataset, width: int, seed: int = 0) -> TwoLayer:
    """Softplus units in pairs: smooth, as the certificate likes it, and 0 at the start."""
    return TwoLayer(data.features, data.classes, width, "softplus", seed=seed)


def kernel_limit(data: Dataset, threat: LpBall, radii: tuple[float, ...], report: Report) -> RobustLossCurve:
    """The optimal robust loss of infinitely wide networks of this kind."""
    part = data.train
    return optimal_robust_loss(
        ntk(network(data, 2)), part.x, part.y, threat, radii, classes=data.classes, progress=report
    )


def trained(
    model: TwoLayer,
    data: Dataset,
    threat: LpBall,
    attack: Attack,
    *,
    radius: float | None,
    rounds: int,
    momentum: float = 0.9,
    seed: int = 0,
    certify: bool = True,
) -> Run:
    """Full-batch gradient descent with step `STEP`, projected to the ball where there is one; surrogate
    loss with the attack of training.
    """
    return train(
        model,
        data,
        threat,
        attack=attack,
        closing="none",
        parameter_radius=radius,
        epochs=rounds,
        learning_rate=STEP,
        optimizer=SGD(momentum=momentum),
        seed=seed,
        certificate=CertificateSettings(trace=certify, tighten=40 if certify else 1),
        progress=False,
    )


def worst_loss(model: torch.nn.Module, data: Dataset, threat: LpBall, seed: int = 0) -> float:
    """Mean loss at the worst points that 40 steps of PGD find, from the example and from a random point;
    *observed*.
    """
    part, strong = data.train, PGD(steps=40, restarts=2, start="example")
    points = strong.run(model, part.x, part.y, threat, seed=seed).x
    with torch.no_grad():
        return float(CrossEntropy()(model(points), part.y).double().mean())


def even(width: float) -> int:
    """The next even width: units come in pairs."""
    return 2 * math.ceil(width / 2)
