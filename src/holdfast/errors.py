"""Every exception Holdfast raises on purpose.

Each carries one sentence: what was wrong, what is allowed, what came, and the remedy. The command line prints
that sentence and exits with status 2; nothing is half-written.
"""


class HoldfastError(Exception):
    """Anything the user can fix; the message says how.

    >>> import holdfast as hf
    >>> issubclass(hf.InputError, hf.HoldfastError)
    True
    """


class InputError(HoldfastError, ValueError):
    """An argument, a data set, a module or an option outside what is allowed.

    >>> import holdfast as hf
    >>> hf.LpBall("2", -1.0)
    Traceback (most recent call last):
        ...
    holdfast.errors.InputError: radius must be a number >= 0 and <= 1e+300, got -1.0; give one of these.
    """


class RunFolderError(HoldfastError):
    """A run folder that cannot be read (cut short, not a run) or written.

    >>> import holdfast as hf
    >>> from holdfast import errors
    >>> issubclass(errors.RunFolderError, hf.HoldfastError)
    True
    """


class NonFiniteLossError(HoldfastError, ArithmeticError):
    """Training diverged: its loss stopped being finite, or its weights went beyond any radius.

    No update was made with a loss that is not finite.

    >>> import holdfast as hf
    >>> from holdfast import errors
    >>> issubclass(errors.NonFiniteLossError, hf.HoldfastError)
    True
    """
