"""``holdfast verify``: is a VNN-LIB property of a network met by some input (sat), by none (unsat,
proved), or unknown?
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast import _defaults
from holdfast._deadline import Deadline
from holdfast.cli.arguments import Parser, positive, seed
from holdfast.errors import InputError

EXAMPLES = """\
  holdfast verify prop.vnnlib --model net.onnx
  holdfast verify prop.vnnlib --model net.onnx --seconds 300 --counterexample found.txt

The answer is the first line: sat, unsat or unknown. Exit status: 0 unsat (nothing meets the property: proved), 1 sat (the
counterexample was run again in float64), 3 unknown, 2 wrong input."""

STATUS = {"unsat": 0, "sat": 1, "unknown": 3}


def run(argv: Sequence[str]) -> int:
    """Print the answer; its exit status."""
    given = _parser().read(argv)
    deadline = Deadline.after(given.seconds)
    for path in (given.property, given.model):
        if not path.is_file():
            raise InputError(f"a file is needed, got {path}, which is none; check the path.")

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
        if given.counterexample is not None:
            from holdfast._files import write_text

            write_text(given.counterexample, text)
            print(given.counterexample)
        else:
            print(text, end="")
    elif answer.status == "unknown":
        print(f"{answer.why}.")
    return STATUS[answer.status]


def _parser() -> Parser:
    parser = Parser("verify", __doc__, EXAMPLES)
    parser.add_argument("property", metavar="PROPERTY", type=Path, help="a .vnnlib file, also gzipped")
    parser.add_argument("--model", type=Path, required=True, help="the network: an .onnx file")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=_defaults.PROPERTY_SECONDS,
        help="for the answer, reading included",
    )
    parser.add_argument(
        "--counterexample", type=Path, help="file to write a counterexample to, as VNN-COMP has it"
    )
    parser.add_argument("--seed", type=seed, default=_defaults.SEED, help="of the search")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser
