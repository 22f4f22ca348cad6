"""Learning to defer to a population (L2D-Pop), the neural-process version: people are sets of context items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from pl2d_ppl.baselines import population
from pl2d_ppl.baselines.ea_l2d import check_context
from pl2d_ppl.baselines.population import PopulationL2D
from pl2d_ppl.checks.data import check_data
from pl2d_ppl.checks.keys import check_key

__all__ = ["PopulationFit", "PopulationL2D", "train_l2d_pop"]


@dataclass(frozen=True, eq=False)
class PopulationFit:
    """A trained L2D-Pop system, for the people in its training data and for new people.

    The system defers to the person with the largest deferral logit if that exceeds all class logits.

    Parameters
    ----------
    network : PopulationL2D
        The trained networks.
    loss : array of float, shape (steps,)
        Training loss.
    """

    network: PopulationL2D
    loss: NDArray

    def representation(self, x: ArrayLike, annotations: ArrayLike, y: ArrayLike) -> Array:
        """Represent people by context items.

        Parameters
        ----------
        x : array, shape (N, ...)
            Inputs of the context items.
        annotations : array of int, shape (N, M)
            Annotations by any people, -1 where missing.
        y : array of int, shape (N,)
            Truth; items of unknown truth, -1, are left out.

        Returns
        -------
        array, shape (M, R)
            Representations psi.

        Raises
        ------
        ValueError
            If the arrays do not fit, or a person has no context item.
        """
        annotations, y = _check(x, annotations, y, self.network.category.num_embeddings)
        return population.represent(self.network, self._inputs(x), jnp.asarray(annotations), jnp.asarray(y))

    def class_logits(self, x: ArrayLike) -> Array:
        """Map inputs of shape (N, ...) to class logits of shape (N, C).

        Raises
        ------
        ValueError
            If x does not fit, or class logits were passed to the training.
        """
        return population.classify(self.network, self._inputs(x))

    def deferral_logits(self, x: ArrayLike, representation: ArrayLike) -> Array:
        """Map inputs of shape (N, ...) and people of shape (M, R) to deferral logits of shape (N, M)."""
        size = self.network.encoder.outputs[0]
        if np.ndim(representation) != 2 or np.shape(representation)[1] != size:
            raise ValueError(
                f"Expected shape (M, {size}), as .representation() gives it, found {np.shape(representation)}."
            )
        return population.defer(self.network, self._inputs(x), jnp.asarray(representation))

    def _inputs(self, x: ArrayLike) -> Array:
        if np.ndim(x) < 2 or prod(np.shape(x)[1:]) != self.network.num_inputs:
            raise ValueError(
                f"Expected {self.network.num_inputs} values an item in x, as in training, found {np.shape(x)}."
            )
        return jnp.asarray(x, float)


def train_l2d_pop(
    rng_key: Array,
    x: ArrayLike,
    annotations: ArrayLike,
    y: ArrayLike,
    num_categories: int,
    *,
    class_logits: ArrayLike | None = None,
    hidden: Sequence[int] = (128,),
    embedding: int = 32,
    representation: int = 64,
    context_size: int = 50,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    progress: bool = False,
) -> PopulationFit:
    r"""Train L2D-Pop with its softmax surrogate loss.

    Every step draws a batch of target items, and for each person m context items that they annotated, which give psi_m.
    With
    p_m the softmax of the C class logits and the deferral logit of person m, the loss of a target is

    .. math:: -\ln p_m(y | x) - 1[t_m = y] \, \ln p_m(\mathrm{defer} | x)

    averaged over the targets of a person, and over people. Pairs of an item and a person without annotation or truth
    occur in neither contexts nor targets. Items are drawn with replacement, targets and contexts independently. As in
    the authors' code, features of context items pass no gradient, which may harm the classifier.

    Parameters
    ----------
    rng_key : Array
        A typed key, for initial weights and draws of items.
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M)
        Annotations, -1 where missing.
    y : array of int, shape (N,)
        Truth, -1 where unknown.
    num_categories : int
        Number of categories C.
    class_logits : array of float, shape (N, C), optional
        Logits of your own classifier on x, constant in the loss. No classifier is then trained.
    hidden, embedding, representation : sequence of int, int, int
        Sizes of the networks, see :class:`PopulationL2D`.
    context_size : int
        Number of context items per person and step.
    steps, batch_size : int
        Steps of Adam, and target items per step.
    learning_rate : float
        Learning rate.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    PopulationFit
        The trained system, which gives representations of people, deferral logits and, if it trained a classifier,
        class logits.

    Raises
    ------
    ValueError
        If data or arguments do not fit together; raised before anything is compiled.
    ArithmeticError
        If the loss is not finite.

    References
    ----------
    Tailor, Patra, Verma, Manggala and Nalisnick, "Learning to Defer to a Population: A Meta-Learning Approach",
    AISTATS 2024; code at https://github.com/dvtailor/meta-l2d.
    """
    check_key(rng_key)
    widths = {"hidden width": min(hidden, default=0), "embedding": embedding, "representation": representation}
    amounts = {"context_size": context_size, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    _check_positive(widths | amounts)
    data = population.tables(*_check(x, annotations, y, num_categories)) | {"x": jnp.asarray(x, float)}
    if class_logits is not None:
        data["class_logits"] = _check_class_logits(class_logits, (*np.shape(y), num_categories))
    inputs = prod(np.shape(x)[1:])
    sizes = (inputs, num_categories, tuple(hidden), embedding, representation, class_logits is None)
    key_start, key_steps = jax.random.split(rng_key)
    carry = population.start(sizes, key_start)
    run = partial(population.train_steps, sizes, context_size, batch_size, learning_rate, key_steps, data)
    losses = []
    length = 100 if progress else steps  # steps between updates of the progress bar
    with tqdm(total=steps, disable=not progress, unit="step") as bar:
        for numbers in np.split(np.arange(steps), range(length, steps, length)):
            carry, loss = run(carry, numbers)
            losses.append(np.asarray(loss))
            bar.update(len(numbers))
    history = np.concatenate(losses)
    if not np.isfinite(history).all():
        step = np.argmin(np.isfinite(history))
        raise ArithmeticError(f"Expected a finite loss, found none in step {step}. Lower learning_rate, standardise x.")
    return PopulationFit(nnx.merge(population.structure(sizes), carry[0]), history)


def _check(x: ArrayLike, annotations: ArrayLike, y: ArrayLike, num_categories: int) -> tuple[NDArray, NDArray]:
    """Check context items, which every person must have, and return their labels."""
    annotations, y = check_context(annotations, y, num_categories)
    x = np.asarray(x)
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise ValueError(f"Expected numeric inputs x of shape (N, ...), found {x.dtype} of shape {x.shape}.")
    check_data({"x": x, "y": y}, 1, "the context")
    usable = (annotations >= 0) & (y >= 0)[:, None]
    if not usable.any(0).all():
        person = np.argmin(usable.any(0))
        raise ValueError(
            f"Expected annotations with truth of everybody, found none of person {person}. Drop the column."
        )
    return annotations, y


def _check_class_logits(class_logits: ArrayLike, shape: tuple[int, int]) -> Array:
    array = np.asarray(class_logits)
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise ValueError(
            f"Expected numeric class_logits of shape {shape}, one row an item of x and one column a category, found "
            f"{array.dtype} of shape {array.shape}."
        )
    check_data({"class_logits": array}, 1, "the classifier's output")
    return jnp.asarray(array, float)


def _check_positive(numbers: Mapping[str, float]) -> None:
    for name, number in numbers.items():
        whole = name == "learning_rate" or isinstance(number, int | np.integer)
        if not (whole and 0 < number < np.inf):
            raise ValueError(f"Expected {name} to be positive, an integer where it counts, found {number}.")
