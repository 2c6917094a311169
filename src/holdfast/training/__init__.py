"""Adversarial training: one loop, a ball around the initial weights, any optimiser."""

from holdfast.training.ball import ParameterBall as ParameterBall
from holdfast.training.loop import Carried as Carried
from holdfast.training.loop import EpochRecord as EpochRecord
from holdfast.training.loop import Fit as Fit
from holdfast.training.loop import Hooks as Hooks
from holdfast.training.loop import Training as Training
from holdfast.training.loop import TrainingState as TrainingState
from holdfast.training.loop import Within as Within
from holdfast.training.loop import fit as fit
from holdfast.training.loop import summed as summed
