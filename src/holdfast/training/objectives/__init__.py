"""What training minimises: the robust loss and the objectives of published recipes. Public as ``holdfast.objectives``."""

from holdfast.training.objectives.base import Batch as Batch
from holdfast.training.objectives.base import Objective as Objective
from holdfast.training.objectives.base import as_objective as as_objective
from holdfast.training.objectives.free import Free as Free
from holdfast.training.objectives.grad_align import GradAlign as GradAlign
from holdfast.training.objectives.ibp import CROWNIBP as CROWNIBP
from holdfast.training.objectives.ibp import IBP as IBP
from holdfast.training.objectives.ibp import MTLIBP as MTLIBP
from holdfast.training.objectives.ibp import SABR as SABR
from holdfast.training.objectives.mart import MART as MART
from holdfast.training.objectives.pairing import LogitPairing as LogitPairing
from holdfast.training.objectives.robust import Mixed as Mixed
from holdfast.training.objectives.robust import RobustLoss as RobustLoss
from holdfast.training.objectives.trades import TRADES as TRADES
