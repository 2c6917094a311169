"""The optimal robust loss in a kernel's space: how small it can get, and how far from the start the
weights must travel.
"""

from holdfast.theory.optimal.curve import RobustLossCurve as RobustLossCurve
from holdfast.theory.optimal.curve import Solution as Solution
from holdfast.theory.optimal.function_class import FunctionClass as FunctionClass
from holdfast.theory.optimal.function_class import KernelClass as KernelClass
from holdfast.theory.optimal.function_class import TangentClass as TangentClass
from holdfast.theory.optimal.function_class import limit_of as limit_of
from holdfast.theory.optimal.search import optimal_robust_loss as optimal_robust_loss
