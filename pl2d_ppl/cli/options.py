"""Shared parts of commands: common options, errors as one message, comma-separated lists."""

import logging
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated as Option
from typing import Any

import typer

from pl2d_ppl.checks.advice import in_shell

__all__ = ["Data", "Guide", "Seed", "Steps", "VoteModelName", "floats", "integers", "names", "reports_errors"]

Data = Option[
    Path,
    typer.Argument(
        help="Items with features, truth and annotations. A .npz, or .nc, holds x, y, annotations (-1 where missing); "
        "optionally group, x_test, y_test. A table (.csv, .tsv, .parquet, .xlsx) has truth, a column a person, and "
        "x_0, x_1, ...; what lacks features or truth, such as the export of an annotation tool, gets them "
        "from other files."
    ),
]
Steps = Option[int, typer.Option(help="Steps of SGD, rounded to whole epochs.", min=1)]
Seed = Option[int, typer.Option(help="First seed: of the split, the networks and everything simulated.")]


class Guide(StrEnum):
    """Posterior of the discrete sites."""

    exact = "exact"
    mean_field = "mean-field"


class VoteModelName(StrEnum):
    """Model of anonymous votes."""

    urn = "urn"
    lda = "lda"


def reports_errors(command: Callable) -> Callable:
    """Print a ValueError as one message instead of a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        for noisy in ("absl", "orbax", "jax"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        try:
            with in_shell():
                command(*args, **kwargs)
        except (ValueError, ArithmeticError) as error:
            typer.secho(f"pl2d: {error}", fg="red", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            kept = "seeds that were finished are kept, and the same command goes on with the others"
            typer.secho(f"pl2d: interrupted; {kept}.", err=True)
            raise typer.Exit(130) from None

    return wrapped


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Show users of the command the text of a warning, without the place that raised it."""
    if issubclass(category, UserWarning):
        typer.secho(f"pl2d: {message}", fg="yellow", err=True)


def names(text: str) -> list[str]:
    """Read comma-separated names."""
    return [part.strip() for part in text.split(",") if part.strip()]


def integers(text: str) -> list[int]:
    """Read comma-separated whole numbers."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"Expected whole numbers with commas between them, such as 1,2,3, found {text!r}.") from None


def floats(text: str) -> list[float]:
    """Read comma-separated numbers."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"Expected numbers with commas between them, such as 0,.2,1, found {text!r}.") from None
