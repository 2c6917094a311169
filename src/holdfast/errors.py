"""Every exception Holdfast raises on purpose.

Each carries one sentence: what was wrong, what is allowed, what came, and the remedy. The command line prints
that sentence and exits with status 2; nothing is half-written.
"""


class HoldfastError(Exception):
    """Anything the user can fix; the message says how."""


class InputError(HoldfastError, ValueError):
    """An argument, a data set, a module or an option outside what is allowed."""


class RunFolderError(HoldfastError):
    """A run folder that cannot be read (cut short, not a run) or written."""


class NonFiniteLossError(HoldfastError, ArithmeticError):
    """Training diverged: its loss stopped being finite, and no update was made with it, or its weights went
    beyond any radius."""
