"""Runs the examples and keeps what they print and draw, for the site: `python docs/run_examples.py [NAME...]`."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
OUTPUT = ROOT / "docs" / "examples" / "output"
# One font, no date and no random identifiers, so that a figure changes only when what it shows does.
STYLE = "svg.hashsalt: holdfast\nfont.family: sans-serif\naxes.spines.top: False\naxes.spines.right: False\n"


def run(script: Path, folder: Path) -> str:
    """What the example prints when it is run in ``folder``, where it leaves its files. One thread, so that it repeats."""
    (folder / "matplotlibrc").write_text(STYLE)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "SOURCE_DATE_EPOCH": "0",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or done.stderr:
        raise RuntimeError(f"{script.name} failed with status {done.returncode}:\n{done.stderr}")
    return done.stdout


def main(names: list[str]) -> None:
    """Writes ``NAME.txt``, and ``NAME.svg`` where the example draws one."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for script in EXAMPLES:
        if names and script.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (OUTPUT / f"{script.stem}.txt").write_text(run(script, folder))
            for figure in folder.glob("*.svg"):
                shutil.copyfile(figure, OUTPUT / figure.name)
        print(script.stem)


if __name__ == "__main__":
    main(sys.argv[1:])
