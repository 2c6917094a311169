"""The command ``holdfast``: which job is meant, and what becomes of its errors. Commands are imported when
called.
"""

import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from holdfast._signals import silence, stopping, was_signal
from holdfast.config.commands import COMMANDS
from holdfast.config.options import HELP as ASKED
from holdfast.config.options import options_of
from holdfast.errors import HoldfastError, InputError

HELP = f"""usage: holdfast COMMAND [options]

Trains neural networks that hold fast under attack, and says how far from the best possible they are.

commands:
{chr(10).join(f"  {name:<10} {kind.__doc__.partition(chr(10))[0]}" for name, kind in COMMANDS.items())}

examples:
  holdfast train --data digits
  holdfast train --data digits --threat l2:0.3 --width 8000 --epochs 60 --out runs/wide
  holdfast train runs/wide/config.yaml --seed 1
  holdfast evaluate runs/wide
  holdfast certify runs/wide --radius 100
  holdfast plan --data digits --threat l2:0.3
  holdfast sweep --data digits --threat l2:0.3 --width 256,1024,4096 --seeds 3
  holdfast reproduce all --quick
  holdfast report runs/wide runs/digits-l2-0.3 --out both.html
  holdfast doctor runs/wide

`holdfast COMMAND --help` has the options of each; `holdfast --version` the version.
Exit status: 0 done, 1 the doctor found something bad (reproduce: a claim fails; sweep: a cell failed; verify: sat; 3: unknown), 2 wrong input (one
sentence says what), 130 interrupted (143 by SIGTERM, 129 by SIGHUP), 141 the reader of the output went away (`| head`)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 2 for anything the user can fix, 128 and its number
    after a signal.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _print_anything()
    try:
        with stopping():
            status = _dispatch(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is understood, and not on the interpreter's way out
        return status
    except (KeyboardInterrupt, SystemExit) as error:
        if not was_signal(error):
            raise
        # The last who had something to say knows best how to go on.
        said = getattr(error, "__notes__", ["interrupted; start the command again."])[-1]
        return _stop(
            said, 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else int(str(error.code))
        )
    except HoldfastError as error:
        return _stop(error, 2)
    except BrokenPipeError:
        # the reader has gone (`| head`): nothing to tell anyone, as a tool that the signal itself ends
        silence(sys.stdout)
        return 128 + signal.SIGPIPE
    except (MemoryError, RecursionError) as error:
        return _stop(_too_much(error), 2)
    except RuntimeError as error:
        if "memory" not in str(error).lower():
            raise
        return _stop(_too_much(error), 2)
    except OSError as error:
        return _stop(f"the system refused: {error}; check the path, its permissions and the free space.", 2)


def _print_anything() -> None:
    """Characters that the terminal's encoding lacks are replaced, so that no finished run ends in an error
    about them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _too_much(error: BaseException) -> str:
    if os.environ.get("HOLDFAST_DEBUG"):
        raise error
    if isinstance(error, RecursionError):
        return "an argument or a file is nested too deeply to be read; write it flat."
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return f"memory ran out ({why}); lower the width, the batch size or the number of examples."


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"holdfast {importlib.import_module('holdfast').__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]}?" if close else "see `holdfast --help`."
        raise InputError(f"the command must be one of {', '.join(COMMANDS)}, got {name!r}; {remedy}")
    options, words = options_of(COMMANDS[name]), arguments[1:]
    if set(ASKED) & set(words):
        print(options.page(words))
        return 0
    options.spelled(words)  # a mistyped option is refused before anything is imported to read its value
    status: int = importlib.import_module(f"holdfast.cli.{name}").run(words)
    return status


def _stop(problem: object, status: int) -> int:
    if os.environ.get("HOLDFAST_DEBUG") and isinstance(problem, BaseException):
        raise problem
    try:
        print(f"holdfast: {problem}", file=sys.stderr, flush=True)
    except BrokenPipeError:  # nobody reads it, and it is what it is all the same
        silence(sys.stderr)
    return status
