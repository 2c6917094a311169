"""The convergence certificate: a pure function of a trace, or of one attacked pass."""

from holdfast.certificates.certificate import Certificate as Certificate
from holdfast.certificates.convergence import attacked_points as attacked_points
from holdfast.certificates.convergence import certify as certify
from holdfast.certificates.convergence import certify_trace as certify_trace
from holdfast.certificates.convergence import evaluated_pass as evaluated_pass
from holdfast.certificates.frozen import FrozenPass as FrozenPass
from holdfast.certificates.frozen import frozen_pass as frozen_pass
