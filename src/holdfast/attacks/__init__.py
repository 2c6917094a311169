"""Attacks: ways to search threat sets, and the accuracy they leave."""

from holdfast.attacks.base import Aim as Aim
from holdfast.attacks.base import Attack as Attack
from holdfast.attacks.base import AttackResult as AttackResult
from holdfast.attacks.base import checked_outputs as checked_outputs
from holdfast.attacks.evaluate import ClassAccuracy as ClassAccuracy
from holdfast.attacks.evaluate import Evaluation as Evaluation
from holdfast.attacks.evaluate import evaluate as evaluate
from holdfast.attacks.modes import attacking as attacking
from holdfast.attacks.modes import in_mode as in_mode
from holdfast.attacks.pgd import FGSM as FGSM
from holdfast.attacks.pgd import PGD as PGD
from holdfast.attacks.simple import CleanAttack as CleanAttack
from holdfast.attacks.simple import MultiTarget as MultiTarget
from holdfast.attacks.simple import RandomAttack as RandomAttack
