"""Peak memory of a whole call of `holdfast.train`, each case in a process of its own: does it grow with the data?

``RSS`` is all resident memory (``ru_maxrss``), pages of files among them, which the system takes back when it needs
them; ``anonymous`` is what cannot be taken back (``RssAnon``, looked at every 5 ms). ``data`` is the size of the examples.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from harness import RESULTS, command, machine, record, table
from torch import nn

import holdfast as hf

MIB = 2**20
FEATURES, CLASSES = 784, 10
GROWN = 1.5
"""Peak memory grows with cached data where it is more than this many times that of a tenth of the data."""


class Anonymous(threading.Thread):
    """The largest anonymous resident memory of this process while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, now * 2**10)
            time.sleep(0.005)


def synthetic(examples: int) -> hf.Dataset:
    """Images of noise around one mean per class, far apart in l-inf."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(examples) % CLASSES
    x = torch.rand(examples, FEATURES, generator=draw)
    return hf.data.from_tensors(x, y, (0.0, 1.0), validation=1 / 12, test=0.15)


def cached(examples: int, folder: str) -> hf.Dataset:
    """The same kind of data, drawn example by example into a memory-mapped file."""

    class Noise(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return examples

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index >= examples:
                raise IndexError(index)
            return torch.rand(FEATURES, generator=torch.Generator().manual_seed(index)), index % CLASSES

    return hf.data.from_dataset(Noise(), validation=0.01, cache=Path(folder) / "noise")


def network(kind: str, data: hf.Dataset) -> nn.Module:
    if kind == "two-layer":
        return hf.networks.TwoLayer(data.features, data.classes, 260, scale=0.1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, data.classes),
    )


def one(case: dict[str, str], folder: str) -> dict[str, float]:
    seen = Anonymous()
    seen.start()
    torch.set_num_threads(1)
    source, _, size = case["data"].partition(":")
    if source == "mnist":
        data = hf.data.idx(size, flatten=True)
    else:
        data = synthetic(int(size)) if source == "tensors" else cached(int(size), folder)
    read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    began = time.perf_counter()
    hf.train(
        network(case["network"], data),
        data,
        hf.LpBall("inf", 0.01, bounds=data.bounds),
        attack=hf.PGD(steps=1),
        epochs=1,
        batch_size=128,
        learning_rate=0.01,
        closing="fast",
        certificate=hf.CertificateSettings(tighten=1),
        progress=False,
        allow_incompatible=True,
    )
    return {
        "examples": len(data.y),
        "data": data.x.numel() * data.x.element_size() / MIB,
        "read": read / MIB,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "anonymous": seen.peak / MIB,
        "seconds": time.perf_counter() - began,
    }


def measured(case: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        words = [sys.executable, __file__, "--one", json.dumps(case), "--folder", folder]
        found: dict[str, float] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mnist", help="folder with MNIST's four IDX files; without it those rows are left out"
    )
    parser.add_argument("--cached", default="32000,320000", help="examples of cached data (320,000: 1 GB)")
    parser.add_argument("--sizes", default="10000,60000", help="examples of data in memory")
    parser.add_argument("--networks", default="two-layer,convolution")
    parser.add_argument("--record", action="store_true", help=f"write the result into {RESULTS.name}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default=".", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(one(json.loads(options.one), options.folder)))
        return
    sources = [f"tensors:{size}" for size in options.sizes.split(",") if size]
    sources += [f"mnist:{options.mnist}"] if options.mnist else []
    sources += [f"cached:{size}" for size in options.cached.split(",") if size]
    rows, said = [], []
    for kind in options.networks.split(","):
        peaks = []
        for source in sources:
            found = measured({"data": source, "network": kind})
            name = source.partition(":")[0]
            rows.append(
                [
                    kind,
                    name,
                    f"{found['examples']:,.0f}",
                    *(f"{found[key]:,.0f}" for key in ("data", "read", "rss", "anonymous", "seconds")),
                ]
            )
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
            peaks += [found["anonymous"]] if name == "cached" else []
        if len(peaks) > 1:
            grows = max(peaks) > GROWN * peaks[0]
            said.append(f"{kind}: anonymous memory {'grows' if grows else 'does not grow'} with cached data.")
    header = (
        "network",
        "source",
        "examples",
        "data, MiB",
        "RSS once read",
        "peak RSS",
        "peak anonymous",
        "s",
    )
    text = "\n\n".join(
        [
            "## Memory\n\n`" + command() + "`; " + machine() + ".",
            "Peak of a whole call of `holdfast.train` (one epoch, batches of 128, one step of PGD, closing fast, the bound not tightened), in MiB, "
            "the interpreter and torch included. RSS counts pages of files, which the system takes back at need; anonymous "
            "memory it cannot.",
            table(header, rows),
            " ".join(said),
        ]
    )
    print(text)
    if options.record:
        record("memory", text)


if __name__ == "__main__":
    main()
