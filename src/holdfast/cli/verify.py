"""``holdfast verify``: is a VNN-LIB property of a network met by some input (sat), by none (unsat,
proved), or unknown?
"""

import sys
from collections.abc import Sequence

from holdfast._deadline import Deadline
from holdfast.config.commands import VerifyCommand
from holdfast.errors import InputError

STATUS = {"unsat": 0, "sat": 1, "unknown": 3}


def run(argv: Sequence[str]) -> int:
    """Print the answer; its exit status."""
    from holdfast.config.reading import read

    given, _ = read(VerifyCommand, argv)
    deadline = Deadline.after(given.seconds)
    for path in (given.property, given.model):
        if not path.is_file():
            raise InputError(f"a file is needed, got {path}, which is none; check the path.")
    found = given.counterexample
    if found is not None and found.exists() and not given.overwrite:
        raise InputError(
            f"--counterexample must be a new file, but {found} exists; choose another, or add --overwrite to "
            "replace it."
        )

    from holdfast.external import load_onnx, read_vnnlib
    from holdfast.jobs.verify import counterexample_text, verify_property

    imported, prop = load_onnx(given.model), read_vnnlib(given.property)
    for note in imported.notes:
        print(f"{given.model}: {note}", file=sys.stderr)
    answer = verify_property(
        imported,
        prop,
        seconds=deadline.left,
        seed=given.seed,
        progress=not given.quiet,
    )
    print(answer.status)
    if answer.status == "sat" and answer.x is not None and answer.outputs is not None:
        text = counterexample_text(answer.x, answer.outputs)
        if found is not None:
            from holdfast._files import write_text

            write_text(found, text)
            print(found)
        else:
            print(text, end="")
    elif answer.status == "unknown":
        print(f"{answer.why}.")
    return STATUS[answer.status]
