"""Threats: what an adversary may turn an example into."""

from holdfast.threats.base import Threat as Threat
from holdfast.threats.custom import CustomThreat as CustomThreat
from holdfast.threats.lp import LpBall as LpBall
from holdfast.threats.lp import is_ball as is_ball
from holdfast.threats.parse import THREAT as THREAT
from holdfast.threats.parse import as_threat as as_threat
from holdfast.threats.parse import parse_threat as parse_threat
from holdfast.threats.sphere import SphereSlice as SphereSlice
