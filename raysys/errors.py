"""Exceptions that end a command with a message instead of a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input that stops a command: printed without a traceback, exit code 2.

    what: what is wrong, with the field and its value. fix: what to do about it.
    A bad *row* is never an InputError: it gets a fate instead (`raysys.outcomes`).
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple:
        # Ray pickles exceptions: rebuild them from the two parts, not from the joined text.
        return type(self), (self.what, self.fix)


class RunFailed(RuntimeError):
    """A run that failed or was stopped because of failures: printed without a traceback, exit code 1.

    Committed results stay.
    """


class WorkerBroken(RuntimeError):
    """The inference engine of this process died. The worker ends and is replaced. Its current rows are not blamed,
    unless engines die on them repeatedly (`raysys.tables.process`).
    """


class MissingExtra(InputError):
    """An optional package is not installed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", f"pip install 'raysys[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple:
        return type(self), (self.package, self.extra)
