"""The paper's theory, executed: neural tangent kernels of infinitely wide and of finite networks."""

from holdfast.theory.analytic import NTK as NTK
from holdfast.theory.analytic import ntk as ntk
from holdfast.theory.empirical import empirical_ntk as empirical_ntk
from holdfast.theory.empirical import empirical_ntk_product as empirical_ntk_product
from holdfast.theory.spec import KernelSpec as KernelSpec
from holdfast.theory.spec import spec_of as spec_of
