"""Errors of programs, with the place where they happened."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
from flax import nnx

__all__ = ["check_signature", "explained", "program_name"]


@contextmanager
def explained(model: Callable, batch: Mapping[str, Any]) -> Iterator[None]:
    """Say in which program, and on which data, an error happened; say what to do if a network does not fit the data.

    Parameters
    ----------
    model : callable
        The program that is run.
    batch : mapping of str to array
        Its data.

    Raises
    ------
    ValueError
        If the shapes within a network do not fit together. Any other error keeps its type, and gets a note.
    """
    try:
        yield
    except Exception as error:
        shapes = {name: a.shape for name, a in batch.items()}
        if _is_shape_of_network(error):
            raise ValueError(
                f"Expected data that the programs and their networks take, found a mini-batch of shapes {shapes}: "
                f"{str(error).splitlines()[0]} Build the networks for these shapes."
            ) from error
        error.add_note(f"This happened in program {program_name(model)!r}, on a mini-batch of shapes {shapes}.")
        raise


def check_signature(model: Callable, given: Mapping[str, Any]) -> None:
    """Check that a program takes the data and arguments by their names, and needs no others.

    Parameters
    ----------
    model : callable
        The program.
    given : mapping
        Data and arguments.

    Raises
    ------
    ValueError
        If a name is unknown, or missing.
    """
    try:
        # A wrapper may take other arguments than the program that it wraps.
        inspect.signature(model, follow_wrapped=False).bind(**given)
    except TypeError as error:
        raise ValueError(
            f"Expected data and arguments by the names that program {program_name(model)!r} gives them, found "
            f"{sorted(given)}: {error}. Mind the spelling."
        ) from error


def program_name(model: Any) -> str:
    """Return the name of a program's function, found within ``partial`` and handlers.

    Parameters
    ----------
    model : callable
        The program.

    Returns
    -------
    str
        Its name.
    """
    while not hasattr(model, "__name__"):
        inner = model.func if isinstance(model, partial) else getattr(model, "fn", None)
        if inner is None:
            return type(model).__name__
        model = inner
    return model.__name__


def _is_shape_of_network(error: Exception) -> bool:
    """Whether JAX refused shapes while a network was evaluated; a network may make other mistakes, too."""
    if not isinstance(error, TypeError) or isinstance(error, jax.errors.JAXTypeError):
        return False
    return any(word in str(error) for word in ("shape", "dimension")) and _in_network(error)


def _in_network(error: Exception) -> bool:
    place = error.__traceback__
    while place is not None:
        if isinstance(place.tb_frame.f_locals.get("self"), nnx.Module):
            return True
        place = place.tb_next
    return False
