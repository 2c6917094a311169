"""Verified bounds: what no attack can do, proved; and randomised smoothing, a probabilistic claim apart."""

from holdfast.verification.methods import verify as verify
from holdfast.verification.result import Verification as Verification
from holdfast.verification.smoothing import SmoothedCertificate as SmoothedCertificate
from holdfast.verification.smoothing import smooth as smooth
