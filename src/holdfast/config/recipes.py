"""Recipes by name: published ways of adversarial training, each a set of settings that any option overrides.

Only the standard library is imported here, so that help and refusals come at once.
"""

from typing import Any

Settings = dict[str, dict[str, Any]]

PGD: dict[str, Any] = {"name": "pgd", "steps": 10}
ONE_CYCLE = {"schedule": "one-cycle"}
CERTIFIED: dict[str, Any] = {"start": "interval", "schedule": "steps", "radius_ramp": 0.4, "clip_norm": 10.0}
"""The radius rises first; the learning rate falls once it is at its own."""
RECIPES: dict[str, Settings] = {
    # Madry et al. 2018, arXiv 1706.06083
    "pgd": {"attack": PGD},
    # Zhang et al. 2019, arXiv 1901.08573
    "trades": {"attack": PGD | {"start": "gaussian"}, "objective": {"name": "trades", "beta": 6.0}},
    # Wang et al. 2020, ICLR
    "mart": {"attack": PGD, "objective": {"name": "mart", "weight": 5.0}},
    # Wu et al. 2020, arXiv 2004.05884
    "awp": {"attack": PGD, "weight_perturbation": {"name": "awp", "size": 0.01}},
    "trades-awp": {
        "attack": PGD | {"start": "gaussian"},
        "objective": {"name": "trades", "beta": 6.0},
        "weight_perturbation": {"name": "awp", "size": 0.005},
    },
    # Shafahi et al. 2019, arXiv 1904.12843; the attack is that of the pass after training
    "free": {"attack": PGD, "objective": {"name": "free", "replays": 8}},
    # Wong et al. 2020, arXiv 2001.03994
    "fgsm-rs": {"attack": {"name": "fgsm-rs", "step": 1.25}, "training": ONE_CYCLE},
    # de Jorge et al. 2022, arXiv 2202.01181
    "n-fgsm": {"attack": {"name": "n-fgsm", "noise": 2.0, "step": 1.0}, "training": ONE_CYCLE},
    # Gowal et al. 2018, arXiv 1810.12715, with the start and the regulariser of Shi et al. 2021, arXiv 2103.15501
    "ibp": {"attack": {"name": "clean"}, "objective": {"name": "ibp"}, "training": CERTIFIED},
    # Zhang et al. 2020, arXiv 1906.06316, with the same
    "crown-ibp": {"attack": {"name": "clean"}, "objective": {"name": "crown-ibp"}, "training": CERTIFIED},
    # Mueller et al. 2023, arXiv 2210.04871
    "sabr": {
        "attack": {"name": "pgd", "steps": 8},
        "objective": {"name": "sabr", "share": 0.4},
        "training": CERTIFIED,
    },
    # De Palma et al. 2024, arXiv 2305.13991
    "mtl-ibp": {
        "attack": {"name": "pgd", "steps": 8},
        "objective": {"name": "mtl-ibp", "share": 0.01},
        "training": CERTIFIED,
    },
    # Andriushchenko and Flammarion 2020, arXiv 2007.02617
    "grad-align": {
        "attack": {"name": "fgsm"},
        "objective": {"name": "grad-align", "weight": 0.2},
        "training": ONE_CYCLE,
    },
}
