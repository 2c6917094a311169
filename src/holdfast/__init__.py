"""Holdfast: adversarially robust training with a certificate of how far the result is from the best possible.

Names are imported when first used, so that ``import holdfast`` and the command line answer without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import acceleration as acceleration
    from holdfast import attacks as attacks
    from holdfast import data as data
    from holdfast import diagnosis as diagnosis
    from holdfast import evaluation as evaluation
    from holdfast import external as external
    from holdfast import families as families
    from holdfast import losses as losses
    from holdfast import networks as networks
    from holdfast import theory as theory
    from holdfast import threats as threats
    from holdfast import verification as verification
    from holdfast.attacks import APGD as APGD
    from holdfast.attacks import FAB as FAB
    from holdfast.attacks import FGSM as FGSM
    from holdfast.attacks import PGD as PGD
    from holdfast.attacks import Attack as Attack
    from holdfast.attacks import AttackResult as AttackResult
    from holdfast.attacks import CarliniWagner as CarliniWagner
    from holdfast.attacks import CleanAttack as CleanAttack
    from holdfast.attacks import DeepFool as DeepFool
    from holdfast.attacks import ExpectedGradient as ExpectedGradient
    from holdfast.attacks import MultiTarget as MultiTarget
    from holdfast.attacks import RandomAttack as RandomAttack
    from holdfast.attacks import Square as Square
    from holdfast.attacks import Transfer as Transfer
    from holdfast.certificates import Certificate as Certificate
    from holdfast.certificates import certify as certify
    from holdfast.config.schema import CertificateSettings as CertificateSettings
    from holdfast.config.schema import DeviceSettings as DeviceSettings
    from holdfast.data.base import Dataset as Dataset
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import InputError as InputError
    from holdfast.evaluation import Evaluation as Evaluation
    from holdfast.evaluation import evaluate as evaluate
    from holdfast.external import load_model as load_model
    from holdfast.jobs.diagnose import Diagnosis as Diagnosis
    from holdfast.jobs.diagnose import diagnose as diagnose
    from holdfast.jobs.export import export as export
    from holdfast.jobs.lightning import lightning_callback as lightning_callback
    from holdfast.jobs.plan import plan as plan
    from holdfast.jobs.train import train as train
    from holdfast.lab import capacity as capacity
    from holdfast.losses import CrossEntropy as CrossEntropy
    from holdfast.losses import Hinge as Hinge
    from holdfast.losses import Huber as Huber
    from holdfast.losses import Loss as Loss
    from holdfast.losses import Squared as Squared
    from holdfast.record.run import Run as Run
    from holdfast.report import write_report as write_report
    from holdfast.threats import CustomThreat as CustomThreat
    from holdfast.threats import LpBall as LpBall
    from holdfast.threats import SphereSlice as SphereSlice
    from holdfast.threats import Threat as Threat
    from holdfast.threats import parse_threat as parse_threat
    from holdfast.trace import TraceRecorder as TraceRecorder
    from holdfast.training import objectives as objectives
    from holdfast.training import optimizers as optimizers
    from holdfast.training.augmentation import ImageAugmentation as ImageAugmentation
    from holdfast.training.averaging import EMA as EMA
    from holdfast.training.averaging import SWA as SWA
    from holdfast.training.perturbation import AWP as AWP
    from holdfast.training.schedules import ScheduleSettings as ScheduleSettings
    from holdfast.training.settings import ValidationSettings as ValidationSettings
    from holdfast.verification import SmoothedCertificate as SmoothedCertificate
    from holdfast.verification import Verification as Verification
    from holdfast.verification import smooth as smooth
    from holdfast.verification import verify as verify

__version__ = "0.1.0"

_MODULES = {
    "acceleration": "acceleration",
    "attacks": "attacks",
    "capacity": "lab.capacity",
    "data": "data",
    "diagnosis": "diagnosis",
    "evaluation": "evaluation",
    "external": "external",
    "families": "families",
    "losses": "losses",
    "networks": "networks",
    "objectives": "training.objectives",
    "optimizers": "training.optimizers",
    "theory": "theory",
    "threats": "threats",
    "verification": "verification",
}
_NAMES = {
    "APGD": "attacks",
    "FAB": "attacks",
    "CarliniWagner": "attacks",
    "DeepFool": "attacks",
    "ExpectedGradient": "attacks",
    "Square": "attacks",
    "Transfer": "attacks",
    "SmoothedCertificate": "verification",
    "Verification": "verification",
    "load_model": "external",
    "smooth": "verification",
    "verify": "verification",
    "FGSM": "attacks",
    "PGD": "attacks",
    "Attack": "attacks",
    "AttackResult": "attacks",
    "CleanAttack": "attacks",
    "Evaluation": "evaluation",
    "MultiTarget": "attacks",
    "RandomAttack": "attacks",
    "evaluate": "evaluation",
    "Certificate": "certificates",
    "certify": "certificates",
    "CertificateSettings": "config.schema",
    "Dataset": "data.base",
    "DeviceSettings": "config.schema",
    "HoldfastError": "errors",
    "InputError": "errors",
    "Diagnosis": "jobs.diagnose",
    "diagnose": "jobs.diagnose",
    "export": "jobs.export",
    "lightning_callback": "jobs.lightning",
    "plan": "jobs.plan",
    "AWP": "training.perturbation",
    "ImageAugmentation": "training.augmentation",
    "EMA": "training.averaging",
    "SWA": "training.averaging",
    "ScheduleSettings": "training.schedules",
    "ValidationSettings": "training.settings",
    "train": "jobs.train",
    "CrossEntropy": "losses",
    "Hinge": "losses",
    "Huber": "losses",
    "Loss": "losses",
    "Squared": "losses",
    "write_report": "report",
    "Run": "record.run",
    "CustomThreat": "threats",
    "LpBall": "threats",
    "SphereSlice": "threats",
    "Threat": "threats",
    "parse_threat": "threats",
    "TraceRecorder": "trace",
}

__all__ = ["__version__", *_MODULES, *_NAMES]  # noqa: PLE0604 - all are strings


def __getattr__(name: str) -> Any:
    """PEP 562: import the value of ``name``, once."""
    if name in _MODULES:
        value: Any = importlib.import_module(f"holdfast.{_MODULES[name]}")
    elif name in _NAMES:
        value = getattr(importlib.import_module(f"holdfast.{_NAMES[name]}"), name)
    else:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
