"""The paper's theory, executed: neural tangent kernels of infinitely wide and of finite networks."""

from holdfast.theory import capacity as capacity
from holdfast.theory.analytic import NTK as NTK
from holdfast.theory.analytic import ntk as ntk
from holdfast.theory.drift import KernelFigures as KernelFigures
from holdfast.theory.drift import KernelWatch as KernelWatch
from holdfast.theory.drift import kernel_alignment as kernel_alignment
from holdfast.theory.drift import kernel_drift as kernel_drift
from holdfast.theory.empirical import empirical_ntk as empirical_ntk
from holdfast.theory.empirical import empirical_ntk_product as empirical_ntk_product
from holdfast.theory.into_network import into_network as into_network
from holdfast.theory.optimal import RobustLossCurve as RobustLossCurve
from holdfast.theory.optimal import optimal_robust_loss as optimal_robust_loss
from holdfast.theory.spec import KernelSpec as KernelSpec
from holdfast.theory.spec import spec_of as spec_of
