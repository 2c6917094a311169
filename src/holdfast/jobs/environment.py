"""What a run will meet, before it starts: the machine, the data, the threat on that data."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from holdfast._tensors import flatten
from holdfast.data.base import Dataset
from holdfast.data.separation import separation
from holdfast.diagnosis import Finding
from holdfast.diagnosis.rules import rare_classes
from holdfast.diagnosis.thresholds import TIGHT
from holdfast.errors import InputError
from holdfast.threats.base import Threat
from holdfast.threats.lp import LpBall

OLDEST_TORCH = (2, 11)
LITTLE_MEMORY = 2.0  # GiB: 60,000 MNIST images in float64 and a network with its trace
LITTLE_DISK = 1.0  # GiB
PACKAGES = (
    "lightning-fabric",
    "scipy",
    "scikit-learn",
    "safetensors",
    "jsonargparse",
    "rich",
    "matplotlib",
    "jinja2",
)
GIB = 2**30


def environment(folder: Path = Path("runs")) -> list[Finding]:
    """The installation, the processors, the memory, and the disk that runs are written to."""
    return [*_installation(), *_processors(), *_memory(), *_disk(folder)]


def data_and_threat(data: Dataset, threat: Threat | None = None) -> list[Finding]:
    """The data by itself, and with ``threat`` whether any classifier can be robust on it (exact, over the
    training part).
    """
    findings = [*_examples(data), *_balance(data)]
    return findings if threat is None else [*findings, *_threat(data, threat)]


def _finding(area: str, what: str, remedy: str = "", *, bad: bool = False) -> Finding:
    return Finding(
        name=area, level="good" if not remedy else "bad" if bad else "warning", sentence=what, remedy=remedy
    )


def _installation() -> Iterator[Finding]:
    version = torch.__version__
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        yield _finding("torch", f"torch {version} is too old", "pip install 'torch>=2.11'", bad=True)
    else:
        yield _finding("torch", f"torch {version}")
    missing = [name for name in PACKAGES if not _installed(name)]
    if missing:
        yield _finding(
            "packages", f"{', '.join(missing)} missing", f"pip install {' '.join(missing)}", bad=True
        )
    else:
        yield _finding("packages", "all that the core needs is installed")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processors() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    what = f"{threads} of {cores} cores in use"
    if threads > cores:
        yield _finding("processors", what, f"threads wait for each other: export OMP_NUM_THREADS={cores}")
    else:
        yield _finding("processors", what)
    if torch.cuda.is_available():
        yield _finding("accelerator", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    elif torch.backends.mps.is_available():
        yield _finding("accelerator", "Apple GPU (mps)")
    else:
        yield _finding("accelerator", "none: everything runs on the CPU")


def _memory() -> Iterator[Finding]:
    free = _available_memory()
    if free is None:
        yield _finding("memory", "not known on this system")
    elif free < LITTLE_MEMORY:
        yield _finding(
            "memory", f"{free:.1f} GiB free", "close other programs, or keep fewer examples: --examples"
        )
    else:
        yield _finding("memory", f"{free:.1f} GiB free")


def _available_memory() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(sizes["MemAvailable"].split()[0]) / 2**20 if "MemAvailable" in sizes else None


def _disk(folder: Path) -> Iterator[Finding]:
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free / GIB
    except OSError as error:
        yield _finding(
            "disk", f"{place} cannot be written ({error.strerror})", "choose another folder: --out", bad=True
        )
        return
    low = free < LITTLE_DISK
    yield _finding(
        "disk", f"{free:.1f} GiB free, writable", "make room, or write elsewhere: --out" if low else ""
    )


def _examples(data: Dataset) -> Iterator[Finding]:
    rows = flatten(data.x)
    broken = int((~rows.isfinite().all(1)).sum())
    if broken:
        yield _finding(
            "data", f"{broken} of {len(rows)} examples are not finite", "remove or fill these rows", bad=True
        )
        return
    if data.bounds is not None:
        low, high = (
            torch.as_tensor(edge, dtype=rows.dtype).expand(data.shape).reshape(-1) for edge in data.bounds
        )
        outside = int(((rows < low) | (rows > high)).any(1).sum())
        if outside:
            remedy = "scale the data, or give the bounds it really has"
            yield _finding(
                "data", f"{outside} of {len(rows)} examples lie outside the valid box", remedy, bad=True
            )
            return
    box = "no valid box" if data.bounds is None else "within the valid box"
    yield _finding("data", f"{data.name}: {len(rows):,} examples of {data.features} features, finite, {box}")


def _balance(data: Dataset) -> Iterator[Finding]:
    counts = torch.bincount(data.y.cpu(), minlength=data.classes)
    rare = rare_classes({str(k): float(counts[k]) for k in range(data.classes)})
    if rare:
        what = f"class {', '.join(rare)} has less than a tenth of an even share"
        yield _finding("classes", what, "collect more of it, or leave it out with --classes")
    else:
        yield _finding(
            "classes", f"{data.classes}, of {int(counts.min()):,} to {int(counts.max()):,} examples each"
        )


def _threat(data: Dataset, threat: Threat) -> Iterator[Finding]:
    try:
        threat.check(data.x)
    except InputError as error:
        yield _finding(
            "threat", str(error).rstrip("."), "choose a threat this data can bear: --threat", bad=True
        )
        return
    norm = threat.norm if isinstance(threat, LpBall) else "2"
    part = data.train
    nearest = separation(part.x, part.y, norm=norm, radius=threat.reach / 2, fixed=data.fixed)
    half = nearest.largest_compatible_radius
    if not nearest.compatible():
        yield _finding(
            "threat",
            f"{threat.spec}: the sets of {nearest.count:,}{'' if nearest.complete else ' or more'} pairs of "
            f"differently labelled examples may meet (nearest distance {nearest.distance:.4g})",
            f"choose a radius below {half:.4g}, or remove the mislabelled examples",
            bad=True,
        )
    elif threat.reach > TIGHT * nearest.distance:
        what = (
            f"{threat.spec} reaches {100 * threat.reach / nearest.distance:.0f} % of the way between labels"
        )
        yield _finding("threat", what, f"choose a radius well below {half:.4g}, unless this is the question")
    else:
        yield _finding("threat", f"{threat.spec}: compatible up to radius {half:.4g}")
    yield from _radius_in_box(data, threat)


def _radius_in_box(data: Dataset, threat: Threat) -> Iterator[Finding]:
    """An l-inf radius of half the box can turn every example into grey."""
    if not isinstance(threat, LpBall) or threat.norm != "inf" or data.bounds is None:
        return
    low, high = (torch.as_tensor(edge) for edge in data.bounds)
    half = float((high - low).max()) / 2
    if threat.radius >= half:
        what = (
            f"{threat.spec} is at least half the width of the valid box: every example can be made "
            "the same grey"
        )
        yield _finding("box", what, f"choose a radius well below {half:.4g}", bad=True)
