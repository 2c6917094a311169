"""Why is it stuck? The findings about a run, read off its folder alone, each with one remedy; its files
first.
"""

import json
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from holdfast._record import differing
from holdfast.diagnosis import Finding
from holdfast.report.collect import RunPage, read_run, said

NEEDED = (
    "last.safetensors",
    "trace/trace.json",
    "trace/initial.safetensors",
    "trace/final_pass.safetensors",
    "trace/setting.json",
)


def examine(folder: Path) -> tuple[Finding, ...]:
    """What is found about the run in ``folder``: the state of its files, then the diagnosis that its page
    and Python give.

    Raises:
        RunFolderError: no run there, or its summary is cut short.
    """
    run = read_run(folder)
    return (*(said(finding, run.config) for finding in _files(run)), *run.findings)


def _files(run: RunPage) -> list[Finding]:
    found = []
    missing = [name for name in NEEDED if not (run.folder / name).exists()]
    if missing and not run.known.interrupted:
        found.append(
            Finding(
                name="files",
                level="bad",
                sentence=f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: the run "
                "cannot be certified again",
                remedy="restore what is missing, or train again",
                command="restore what is missing, or train again (`holdfast train RUN/config.yaml`)",
            )
        )
    cut = [str(path.relative_to(run.folder)) for path in _kept(run.folder) if not _whole(path)]
    damaged = sorted({*cut, *differing(run.folder)} - set(missing))
    if damaged:
        found.append(
            Finding(
                name="files",
                level="bad",
                sentence=f"{', '.join(damaged)} cannot be read: cut short, damaged or exchanged",
                remedy="restore what is damaged, or train again",
                command="restore what is damaged, or train again (`holdfast train RUN/config.yaml`)",
            )
        )
    if run.unread_lines:
        lines = f"{run.unread_lines} line{'s' if run.unread_lines > 1 else ''} of metrics.jsonl"
        found.append(
            Finding(
                name="files",
                level="warning",
                sentence=f"{lines} cut short",
                remedy="nothing need be done, the others are read; train again for a whole record",
            )
        )
    return found or [Finding(name="files", level="good", sentence="all there and whole")]


def _kept(folder: Path) -> list[Path]:
    patterns = ("*.safetensors", "trace/*.safetensors", "trace/*.json", "checkpoints/*.pt")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _whole(path: Path) -> bool:
    """Whether the file ends where it should; numbers are not read."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return True
        if path.suffix == ".pt":  # an archive, whose table of contents comes last
            return is_zipfile(path)
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError, ValueError):
        return False
