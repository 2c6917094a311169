"""What training writes and certificates read: windows of rounds, each a quadratic below the robust loss."""

from holdfast.curvature.lower_model import Block as Block
from holdfast.curvature.lower_model import Bound as Bound
from holdfast.curvature.lower_model import LowerModel as LowerModel
from holdfast.curvature.rounding import Rounding as Rounding
from holdfast.trace.recorder import TraceRecorder as TraceRecorder
from holdfast.trace.trace import Evaluated as Evaluated
from holdfast.trace.trace import FrozenPoints as FrozenPoints
from holdfast.trace.trace import Trace as Trace
from holdfast.trace.trace import load_points as load_points
from holdfast.trace.trace import load_trace as load_trace
from holdfast.trace.trace import save_points as save_points
from holdfast.trace.trace import save_trace as save_trace
from holdfast.trace.window import Window as Window
