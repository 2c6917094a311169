"""Verified bounds: what no attack can do, proved; and randomised smoothing, a probabilistic claim apart."""

from holdfast.verification.smoothing import SmoothedCertificate as SmoothedCertificate
from holdfast.verification.smoothing import smooth as smooth
from holdfast.verification.verify import Verification as Verification
from holdfast.verification.verify import verify as verify
