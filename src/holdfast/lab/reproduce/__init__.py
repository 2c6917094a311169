"""The claims of the theory put to the test: one experiment each, with a criterion stated before it is run."""

from holdfast.lab.reproduce.base import Criterion as Criterion
from holdfast.lab.reproduce.base import Experiment as Experiment
from holdfast.lab.reproduce.base import Measured as Measured
from holdfast.lab.reproduce.base import Scale as Scale
from holdfast.lab.reproduce.run import EXPERIMENTS as EXPERIMENTS
from holdfast.lab.reproduce.run import reproduce as reproduce
