"""The exceptions that end a command with a message instead of a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input that stops a command before any work: printed without a traceback, exit code 2.

    `what` says what is wrong and names the field and its value; `fix` says what to do about it.
    A bad *row* is never an InputError: it becomes an outcome row (`raysys.outcomes`).
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple:
        # Exceptions cross process boundaries under Ray: rebuild from the two parts, not from the joined text.
        return type(self), (self.what, self.fix)


class RunFailed(RuntimeError):
    """A run ended, or was stopped, with more failures than allowed: printed without a traceback, exit code 1.

    What was committed stays.
    """


class WorkerBroken(RuntimeError):
    """The inference engine behind this process died. The worker ends and is replaced. The rows in hand are not
    blamed, unless engines die on them repeatedly (`raysys.tables.process`).
    """


class MissingExtra(InputError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", f"pip install 'raysys[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple:
        return type(self), (self.package, self.extra)
