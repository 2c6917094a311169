"""The claims of the theory put to the test: one experiment each, with a criterion stated before it is run."""

from holdfast.reproduce.base import Criterion as Criterion
from holdfast.reproduce.base import Experiment as Experiment
from holdfast.reproduce.base import Measured as Measured
from holdfast.reproduce.base import Setting as Setting
from holdfast.reproduce.run import EXPERIMENTS as EXPERIMENTS
from holdfast.reproduce.run import reproduce as reproduce
