"""Plate diagram and program text of every model, drawn from the programs whenever the site is built."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import graphviz
import jax.numpy as jnp
import numpyro
from sphinx.util import logging

import pl2d_ppl.models
from pl2d_ppl import MLP, Ensemble

logger = logging.getLogger(__name__)
ITEMS, FEATURES, PEOPLE, CLUSTERS, CATEGORIES = 5, 2, 3, 2, 4


class Example(NamedTuple):
    """Arguments that a program is drawn with: networks and the like, and what was observed."""

    settings: dict
    data: dict


def _mlp(*shape: int) -> Callable:
    return partial(MLP, FEATURES, (4,), *shape)


_X = {"x": jnp.zeros((ITEMS, FEATURES))}
_PEOPLE = {**_X, "annotations": jnp.zeros((ITEMS, PEOPLE), int), "y": jnp.zeros(ITEMS, int)}
_COUNTS = jnp.zeros((ITEMS, CATEGORIES), int).at[:, 0].set(PEOPLE)
_MEMBERSHIP = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
_EXPERTS = partial(Ensemble, _mlp(CATEGORIES), PEOPLE)
_CLASSIFIER = {"classifier": _mlp(CATEGORIES)}

EXAMPLES = {
    "annotator_lda": Example(
        {"clusters": partial(Ensemble, _mlp(CATEGORIES), CLUSTERS)}, {**_X, "votes": jnp.zeros((ITEMS, 3), int)}
    ),
    "annotator_urn": Example({"truth": _mlp(CATEGORIES), "sizes": (2, 1)}, {**_X, "counts": _COUNTS}),
    "classification": Example(_CLASSIFIER, {**_X, "y": jnp.zeros(ITEMS, int)}),
    "cluster_l2d": Example({**_CLASSIFIER, "membership": _MEMBERSHIP, "gating": _mlp(CLUSTERS + 1)}, _PEOPLE),
    "crowd_l2d": Example(
        {**_CLASSIFIER, "membership": _MEMBERSHIP}, {**_PEOPLE, "y": jnp.full(ITEMS, -1).at[0].set(0)}
    ),
    "prob_cluster_l2d": Example(
        {**_CLASSIFIER, "membership": _MEMBERSHIP, "gating": _mlp(CLUSTERS + 1), "experts": _EXPERTS}, _PEOPLE
    ),
    "membership": Example(
        {},
        {
            "cluster_probs": jnp.full((ITEMS, CLUSTERS, CATEGORIES), 1 / CATEGORIES),
            "annotations": jnp.zeros(ITEMS, int),
        },
    ),
    "pooled_l2d": Example({**_CLASSIFIER, "membership": _MEMBERSHIP}, _PEOPLE),
    "prob_l2d": Example({**_CLASSIFIER, "gating": _mlp(PEOPLE + 1), "experts": _EXPERTS}, _PEOPLE),
}


def models() -> list[str]:
    """Names of the models that there are: one a file."""
    return [module.name for module in pkgutil.iter_modules(pl2d_ppl.models.__path__)]


def function_of(name: str) -> Callable:
    """Return the program of that name."""
    return getattr(importlib.import_module(f"pl2d_ppl.models.{name}"), name)


def diagram(name: str) -> graphviz.Digraph:
    """Plate diagram of a model.

    Raises
    ------
    ValueError
        If there is no example to draw the model with.
    """
    if name not in EXAMPLES:
        raise ValueError(
            f"Expected an example of every model, found none of {name!r}. Add its arguments to docs/diagrams.py."
        )
    settings, data = EXAMPLES[name]
    with numpyro.handlers.seed(rng_seed=0):
        graph = numpyro.render_model(partial(function_of(name), **settings), model_kwargs=data)
    graph.graph_attr.update(bgcolor="white", pad="0.2", fontname="Helvetica", fontsize="12")
    graph.node_attr.update(fontname="Helvetica", fontsize="12")
    graph.edge_attr.update(color="#444444", arrowsize="0.7")
    return graph


def program_text(name: str) -> str:
    """Source of a model's function, from its first line, without the docstring, which its page tells in full."""
    source = inspect.getsource(function_of(name))
    function = ast.parse(source).body[0]
    docstring = function.body[0]  # type: ignore[attr-defined]
    lines = source.splitlines(keepends=True)
    return "".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


def diagram_files() -> dict[str, str]:
    """Fragments that the models' pages include, by file name: a picture, or its source where there is no graphviz."""
    files, drawn = {}, True
    for name in models():
        graph = diagram(name)
        try:
            svg = graph.pipe(format="svg", encoding="utf-8")
        except graphviz.ExecutableNotFound:
            drawn = False
            files[f"{name}.md"] = f"```text\n{graph.source.strip()}\n```\n"
        else:
            files[f"{name}.svg"] = svg
            files[f"{name}.md"] = (
                f"```{{image}} /generated/diagrams/{name}.svg\n:alt: Plate diagram of {name}\n:align: center\n```\n"
            )
        files[f"{name}.py"] = program_text(name)
    if not drawn:
        logger.info(
            "Expected graphviz's `dot` on the path, found none: plate diagrams are shown as their source. "
            "Install graphviz (Debian: apt install graphviz) to have them drawn."
        )
    return files
