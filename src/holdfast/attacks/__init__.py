"""Attacks: ways to search threat sets for points where a network does badly."""

from holdfast.attacks.apgd import APGD as APGD
from holdfast.attacks.base import Attack as Attack
from holdfast.attacks.base import AttackResult as AttackResult
from holdfast.attacks.base import Goal as Goal
from holdfast.attacks.base import checked_outputs as checked_outputs
from holdfast.attacks.black_box import Transfer as Transfer
from holdfast.attacks.by_name import ATTACK as ATTACK
from holdfast.attacks.by_name import as_attack as as_attack
from holdfast.attacks.fab import FAB as FAB
from holdfast.attacks.margins import DLR as DLR
from holdfast.attacks.margins import Margin as Margin
from holdfast.attacks.margins import TargetedDLR as TargetedDLR
from holdfast.attacks.minimal_norm import CarliniWagner as CarliniWagner
from holdfast.attacks.minimal_norm import DeepFool as DeepFool
from holdfast.attacks.modes import attacking as attacking
from holdfast.attacks.modes import in_mode as in_mode
from holdfast.attacks.pgd import FGSM as FGSM
from holdfast.attacks.pgd import PGD as PGD
from holdfast.attacks.simple import CleanAttack as CleanAttack
from holdfast.attacks.simple import MultiTarget as MultiTarget
from holdfast.attacks.simple import RandomAttack as RandomAttack
from holdfast.attacks.single_step import NoiseFGSM as NoiseFGSM
from holdfast.attacks.single_step import RandomStartFGSM as RandomStartFGSM
from holdfast.attacks.square import Square as Square
from holdfast.attacks.transformed import ExpectedGradient as ExpectedGradient
from holdfast.attacks.transformed import MeanOutputs as MeanOutputs
