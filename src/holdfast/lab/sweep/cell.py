"""One cell of a sweep, in whatever process it falls to: a whole training run or a search for the smallest
width, and its figures.
"""

import math
import time
import traceback
from pathlib import Path
from typing import Any

from holdfast._files import json_writer
from holdfast._record import Files
from holdfast.errors import HoldfastError, InputError
from holdfast.record.known import known_of
from holdfast.record.schema import Summary

TRIES = 2  # of a cell that fails, for whatever else than its own settings
FIGURES = (
    "clean_accuracy",
    "robust_accuracy",
    "train_clean_accuracy",
    "train_robust_accuracy",
    "surrogate_loss",
    "robust_loss_lower_bound",
    "robust_loss_upper_bound",
    "gap",
)

Record = dict[str, Any]


def run_cell(cell: dict[str, Any], folder: str, threads: int) -> Record:
    """Run one cell, a training run in ``FOLDER/SLUG``, and return its record; a failure is tried once more
    and then becomes the record.

    The record has ``status`` (``done``, ``failed`` or ``interrupted``), ``place``, ``figures``, ``seconds``,
    ``tries`` and ``reason``.
    """
    import torch

    torch.set_num_threads(threads)
    out, began = Path(folder), time.perf_counter()
    run = out / cell["slug"]
    record: Record = {
        "slug": cell["slug"],
        "place": cell["place"],
        "status": "failed",
        "figures": {},
        "reason": None,
    }
    for tries in range(1, TRIES + 1):
        try:
            figures = _capacity(cell, run) if cell["widths"] is not None else _train(cell, run)
            record |= {"status": "done", "figures": figures, "reason": None}
        except (KeyboardInterrupt, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) else None
            return record | {
                "status": "interrupted",
                "tries": tries,
                "seconds": time.perf_counter() - began,
                "code": code,
            }
        except InputError as error:  # settings stay wrong however often they are tried
            record |= {"reason": str(error), "tries": tries, "seconds": time.perf_counter() - began}
            break
        except HoldfastError as error:
            record |= {"reason": str(error)}
        except Exception as error:  # the other cells must go on
            record |= {"reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            (out / f"{cell['slug']}.failure.txt").write_text(traceback.format_exc(), encoding="utf-8")
        record |= {"tries": tries, "seconds": time.perf_counter() - began}
        if record["status"] == "done":
            break
    return record


def _train(cell: dict[str, Any], run: Path) -> dict[str, Any]:
    from dataclasses import replace

    from holdfast.config.build import build
    from holdfast.config.schema import from_dict, to_dict
    from holdfast.jobs.train import train

    config = from_dict(cell["config"])
    if cell["rho"] is not None:
        config = replace(config, threat=replace(config.threat, spec=_spec(config, cell["rho"])))
    config = replace(config, out=str(run))
    job = build(config)
    resume = (run / "checkpoints" / "last.pt").exists()
    settings = {**job.options, "out": run, "resume": resume, "progress": False, "config": to_dict(config)}
    return _figures(train(job.model, job.data, job.threat, **settings).figures)


def _figures(summary: Summary) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(summary, name) for name in FIGURES}
    known, both = known_of(summary), summary.compatibility
    if known.claimed is None:
        found |= {"robust_loss_lower_bound": None, "gap": None}
    reach, distance = both.reach, both.smallest_distance
    return found | {
        "rho": reach / distance if reach is not None and distance else None,
        "fits": None if summary.train_fitted is None else float(summary.train_fitted),
        "certificate_informative": known.kind is None or known.informative,
        "certificate_status": summary.certificate_status,
        "accuracy_on": summary.accuracy_on,
    }


def _capacity(cell: dict[str, Any], run: Path) -> dict[str, Any]:
    from dataclasses import replace

    from holdfast.config.build import build_data, build_threat
    from holdfast.config.schema import from_dict
    from holdfast.lab.capacity import smallest_width

    config = from_dict(cell["config"])
    data = build_data(config.data, seed=config.seed)
    spec = config.threat.spec if cell["rho"] is None else _spec(config, cell["rho"])
    threat = build_threat(replace(config.threat, spec=spec), data)
    network = "two-layer" if cell["hidden_layers"] == 1 else "three-layer"
    found = smallest_width(data, threat, network=network, widths=cell["widths"], seeds=(config.seed,))
    run.mkdir(parents=True, exist_ok=True)
    Files(run).put("capacity.json", json_writer(found.as_dict()))
    robust = found.robust
    return {
        "plain_width": found.plain.median,
        "robust_width": None if robust is None else robust.median,
        "impossible_below": None if robust is None else robust.brackets[0].impossible_below,
        "width_ratio": found.gap,
        "rho": found.rho,
        "examples": found.examples,
        "dimension": found.dimension,
        "tried": [] if robust is None else [[a.width, a.outcome] for a in robust.attempts],
    }


def _spec(config: Any, rho: float) -> str:
    """The threat of these data at this ``rho``, in the norm asked for."""
    from holdfast.config.build import build_data
    from holdfast.theory.capacity import radius_for

    norm = config.threat.spec.partition(":")[0]
    return f"{norm}:{radius_for(build_data(config.data, seed=config.seed), norm, rho)!r}"


def choices(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What a cell names: data, threat, network, attacks, optimiser. Cells that name the same are built
    from the same parts.
    """
    from holdfast.config.reading import SHORTHAND

    config = cell["config"]
    return (*(config[section][name] for section, name in SHORTHAND.items()), config["training"]["optimizer"])


def check(cell: dict[str, Any]) -> None:
    """Refuse what cannot be had, before anything runs: data, threat, and of a cell that trains its network,
    attacks and optimiser.

    Raises:
        InputError: what `holdfast train` would say.
    """
    from dataclasses import replace

    from holdfast.config.build import build, build_data, build_threat
    from holdfast.config.schema import from_dict

    config = from_dict(cell["config"])
    spec = config.threat.spec if cell["rho"] is None else _spec(config, cell["rho"])
    config = replace(config, threat=replace(config.threat, spec=spec))
    if cell["widths"] is None:
        build(config)
    else:
        build_threat(config.threat, build_data(config.data, seed=config.seed))


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
