"""How long Holdfast takes to be ready, in units of ``import torch``: user time of new processes with one thread, taken in turns.

The first ``hf.train`` is the import of all that training needs; the first call also trains a network of 16 units on 24 examples for two
epochs, evaluates and certifies it, and so pays for what is imported only then (scipy's solvers, torch's forward derivatives).
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

from harness import arguments, command, interleaved, machine, record, table

CALL = """
import torch
import holdfast as hf
x = torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
data = hf.data.from_tensors(x, (x[:, 0] > 0.5).long())
model = hf.networks.TwoLayer(5, 2, width=16)
hf.train(model, data, hf.LpBall("2", 0.05), attack=hf.PGD(steps=2), epochs=2, progress=False)
"""
CASES = (
    ("`import holdfast`", "import holdfast"),
    (
        "`holdfast --help`",
        "import sys; sys.argv = ['holdfast', '--help']; from holdfast.cli.main import main; main()",
    ),
    (
        "`import torch` and its first `SGD`",
        "import torch; torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)",
    ),
    ("the first `hf.train`", "import holdfast; holdfast.train"),
    ("the first call of it", CALL),
)


def process(code: str) -> Callable[[], float]:
    """A new interpreter that runs ``code``; gives its user time."""

    def work() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    return work


def main() -> None:
    chosen = arguments(__doc__ or "")
    rows, torch_seconds = [], []
    for name, code in CASES:
        found = interleaved(
            process(code),
            process("import torch"),
            repeats=2 if chosen.quick else 7,
            clock=lambda work: work(),
        )
        torch_seconds.append(found.floor)
        rows.append((name, f"{found.ours:.2f}", found.text))
        print(*rows[-1])
    text = f"""## Time to be ready

`{command()}`; {machine()}.

User time in new processes, beside {statistics.median(torch_seconds):.2f} s for `import torch`; median and range of ratios of neighbours in time.

{table(("what", "seconds", "of `import torch`"), rows)}
"""
    print(text)
    if chosen.record:
        record("imports", text)


if __name__ == "__main__":
    main()
