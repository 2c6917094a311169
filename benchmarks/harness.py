"""What the benchmarks share: interleaved timing, the machine and the versions, and the page that keeps their results.

Times on a shared machine drift by more than the differences measured here. So the things compared take turns, each round
gives one ratio of neighbours in time, and the median of those ratios is the figure; their range is given beside it.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How often longer one thing took than another, over interleaved rounds; times in seconds."""

    ours: float
    floor: float
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def text(self) -> str:
        """Median and range, e.g. ``1.04 (1.02 - 1.09)``."""
        return f"{self.median:.3f} ({min(self.values):.3f} - {max(self.values):.3f})"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, garbage collected beforehand."""
    gc.collect()
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def interleaved(
    ours: Callable[[], object],
    floor: Callable[[], object],
    *,
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[Callable[[], object]], float] = seconds,
) -> Ratio:
    """Times ``ours`` and ``floor`` in turns, in changing order, after ``warm_up`` calls of each that are not counted.

    ``clock`` calls the work and returns its time; give another where the work measures itself.
    """
    for _ in range(warm_up):
        clock(floor), clock(ours)
    mine, theirs = [], []
    for turn in range(repeats):
        first, second = (ours, floor) if turn % 2 else (floor, ours)
        times = {id(first): clock(first), id(second): clock(second)}
        mine.append(times[id(ours)])
        theirs.append(times[id(floor)])
    return Ratio(
        ours=statistics.median(mine),
        floor=statistics.median(theirs),
        values=tuple(a / b for a, b in zip(mine, theirs, strict=True)),
    )


def machine() -> str:
    """Processor, cores and threads, system and versions: one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        processor = named[0].split(":", 1)[1].strip() if named else processor
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{device};"
        f" {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def record(section: str, text: str, path: Path = RESULTS) -> None:
    """Replace one section of the results page by ``text`` (or append it), all at once.

    A section stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the rest of the page is left as it is.
    """
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n"
    block = f"{begin}\n{text.strip()}\n{end}"
    if begin in page and end in page:
        before, rest = page.split(begin, 1)
        page = before + block + rest.split(end, 1)[1]
    else:
        page = f"{page.rstrip()}\n\n{block}\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(page)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def arguments(description: str) -> argparse.Namespace:
    """``--quick``: fewer repeats and smaller sizes; ``--record``: write the result into the page; ``--threads``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes")
    parser.add_argument("--record", action="store_true", help=f"write the result into {RESULTS.name}")
    parser.add_argument(
        "--threads", type=int, default=None, help="threads of torch (default: its own choice)"
    )
    parser.add_argument("--only", default="", help="run only the cases whose name contains this")
    chosen = parser.parse_args()
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    return chosen


def command() -> str:
    """The command line that is running, as one would type it from the repository's root."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
