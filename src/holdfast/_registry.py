"""What has a name on the command line, in YAML and in Python: one line each, the name and where it is
defined.

The line is all there is to add: settings, their types, defaults and help are read from the definition. Names
are known, and wrong ones refused, before torch is imported.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast._declared import Declared, declared


class Registry(Mapping[str, Any]):
    """From names to their values, each imported when it is asked for."""

    def __init__(self, **paths: str) -> None:
        self._paths = {name.replace("_", "-"): path for name, path in paths.items()}

    def __getitem__(self, name: str) -> Any:
        module, _, what = self._paths[name].partition(":")
        return getattr(importlib.import_module(f"holdfast.{module}"), what)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def settings(self, name: str) -> dict[str, Declared]:
        """What ``name`` can be given."""
        return declared(self._paths[name])


ATTACKS = Registry(
    pgd="attacks.pgd:PGD",
    fgsm="attacks.pgd:FGSM",
    fgsm_rs="attacks.single_step:RandomStartFGSM",
    n_fgsm="attacks.single_step:NoiseFGSM",
    apgd="attacks.apgd:APGD",
    fab="attacks.fab:FAB",
    square="attacks.square:Square",
    carlini_wagner="attacks.minimal_norm:CarliniWagner",
    deepfool="attacks.minimal_norm:DeepFool",
    random="attacks.simple:RandomAttack",
    clean="attacks.simple:CleanAttack",
    multi_target="attacks.simple:MultiTarget",
    expected_gradient="attacks.transformed:ExpectedGradient",
    transfer="attacks.black_box:Transfer",
)
OBJECTIVES = Registry(
    robust_loss="training.objectives.robust:RobustLoss",
    mixed="training.objectives.robust:Mixed",
    trades="training.objectives.trades:TRADES",
    mart="training.objectives.mart:MART",
    logit_pairing="training.objectives.pairing:LogitPairing",
    ibp="training.objectives.ibp:IBP",
    crown_ibp="training.objectives.ibp:CROWNIBP",
    sabr="training.objectives.ibp:SABR",
    mtl_ibp="training.objectives.ibp:MTLIBP",
    grad_align="training.objectives.grad_align:GradAlign",
    free="training.objectives.free:Free",
)
PERTURBATIONS = Registry(none="training.perturbation:NoPerturbation", awp="training.perturbation:AWP")
AVERAGING = Registry(
    none="training.averaging:NoAveraging", ema="training.averaging:EMA", swa="training.averaging:SWA"
)
AUGMENTATIONS = Registry(
    none="training.augmentation:NoAugmentation", images="training.augmentation:ImageAugmentation"
)
LOSSES = Registry(
    cross_entropy="losses:CrossEntropy",
    logistic="losses:CrossEntropy",
    hinge="losses:Hinge",
    squared="losses:Squared",
    huber="losses:Huber",
    margin="attacks.margins:Margin",
    dlr="attacks.margins:DLR",
    targeted_dlr="attacks.margins:TargetedDLR",
)
NETWORKS = Registry(
    two_layer="networks.for_data:two_layer",
    dense="networks.for_data:dense",
    mnist_conv="networks.conv:MNISTConv",
    preact_resnet="networks.preact_resnet:PreActResNet",
    wide_resnet="networks.wide_resnet:WideResNet",
    cnn7="networks.cnn7:CNN7",
    vit="networks.vit:ViT",
)
DATA = Registry(
    digits="data.digits:digits",
    spheres="data.synthetic:spheres",
    forced="data.forced:forced",
    shattering="data.forced:shattering",
    separated="data.forced:separated",
)
"""Beside folders of IDX, CIFAR and image files and ``.npz`` files, which go by their path."""
