"""Warnings that point at the line of the user that led to them."""

import warnings
from pathlib import Path

__all__ = ["warn"]

PACKAGE = str(Path(__file__).parents[1])
GENERATED = "<string"  # of the methods that `dataclass` writes; Python 3.12.1 matches no prefix as long as the name


def warn(message: str) -> None:
    """Warn the caller of this library, however deep inside of it the reason was found."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(PACKAGE, GENERATED), stacklevel=2)
