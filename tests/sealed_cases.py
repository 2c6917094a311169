"""Run folders changed on purpose, as by whoever wrote them: with a record that fits again."""

import json
from pathlib import Path

from holdfast._record import FORMAT, RECORD, _own_digest, belongings, digest_of


def sealed(folder: Path) -> Path:
    """The folder, its record that of the files that lie there now."""
    files = {name: digest_of(folder / name) or "" for name in belongings(folder) if name != "report.html"}
    record = {"format": FORMAT, "digest": _own_digest(files), "files": files}
    (folder / RECORD).write_text(json.dumps(record))
    return folder
