"""Fixtures that the tests of all models share."""

import logging

import jax
import pytest


@pytest.fixture
def compiled():
    """Names of the functions that are compiled meanwhile."""
    names = []

    class Record(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if message.startswith("Compiling "):
                names.append(message.split()[1])

    handler = Record()
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    with jax.log_compiles():
        yield names
    logger.removeHandler(handler)
