"""Advice in the syntax of whoever reads it: a Python program, or the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["advice", "in_shell"]

_SHELL: ContextVar[bool] = ContextVar("shell", default=False)


def advice(python: str, shell: str) -> str:
    """Choose the wording of an advice.

    Parameters
    ----------
    python, shell : str
        The same advice for a Python program, and for the command line.

    Returns
    -------
    str
        One of them.
    """
    return shell if _SHELL.get() else python


@contextmanager
def in_shell() -> Iterator[None]:
    """Give advice in the syntax of the command line."""
    token = _SHELL.set(True)
    try:
        yield
    finally:
        _SHELL.reset(token)
