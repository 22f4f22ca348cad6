"""Warnings that point at the user's line that caused them."""

import warnings
from pathlib import Path

__all__ = ["warn"]

PACKAGE = str(Path(__file__).parents[1])
GENERATED = "<string"  # of methods that `dataclass` writes; Python 3.12.1 matches no prefix as long as the name


def warn(message: str) -> None:
    """Warn the caller of this library, however deep inside the library the cause lies."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(PACKAGE, GENERATED), stacklevel=2)
