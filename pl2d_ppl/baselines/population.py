"""The networks of L2D-Pop, its loss, and its training steps."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from pl2d_ppl.networks import MLP

__all__ = ["PopulationL2D", "classify", "defer", "represent", "start", "structure", "tables", "train_steps"]

Sizes = tuple[int, int, tuple[int, ...], int, int, bool]  # the arguments of PopulationL2D


class PopulationL2D(nnx.Module):
    """Classifier, context encoder and rejector on common features phi(x).

    A person is psi = mean over context items of encoder([phi(x), E(y), E(t)]), with one embedding E of categories for
    the truth y and the annotation t. The classifier is linear in phi(x); rejector([phi(x), psi]) is one logit.

    Parameters
    ----------
    num_inputs : int
        Number of values per input.
    num_categories : int
        Number of categories C.
    hidden : sequence of int
        Widths of the hidden layers of every network; the last is the size of phi(x).
    embedding : int
        Size of E.
    representation : int
        Size R of psi.
    classifies : bool
        Whether there is a classifier; without one, class logits must be supplied.
    rngs : nnx.Rngs
        Source of the weights.
    """

    def __init__(
        self,
        num_inputs: int,
        num_categories: int,
        hidden: Sequence[int],
        embedding: int,
        representation: int,
        classifies: bool = True,
        *,
        rngs: nnx.Rngs,
    ):
        self.num_inputs = num_inputs
        *below, width = hidden
        self.body = MLP(num_inputs, below, width, rngs=rngs)
        self.classifier = MLP(width, (), num_categories, rngs=rngs) if classifies else None
        self.category = nnx.Embed(num_categories, embedding, rngs=rngs)
        self.encoder = MLP(width + 2 * embedding, hidden, representation, rngs=rngs)
        self.rejector = MLP(width + representation, hidden, 1, rngs=rngs)

    def features(self, x: Array) -> Array:
        """Map inputs (N, ...) to features phi(x), (N, F)."""
        return nnx.relu(self.body(x))

    def classify(self, features: Array) -> Array:
        """Map features (N, F) to class logits (N, C)."""
        if self.classifier is None:
            raise ValueError(
                "Expected a classifier that was trained with the people, found none, but class_logits that were passed "
                "to the training. Use those of your own classifier."
            )
        return self.classifier(features)

    def represent(self, features: Array, annotations: Array, y: Array) -> Array:
        """Map context features (M, S, F), annotations (M, S) and truth (M, S), -1 missing, to people psi (M, R)."""
        # Labels are clipped only for the look-up: missing ones have no weight.
        labels = [self.category(jnp.maximum(label, 0)) for label in (y, annotations)]
        items = jnp.concatenate([features, *labels], -1)
        encoded = self.encoder(items.reshape(-1, items.shape[-1])).reshape(*y.shape, -1)
        weight = ((annotations >= 0) & (y >= 0)).astype(encoded.dtype)[..., None]
        return (weight * encoded).sum(1) / jnp.maximum(weight.sum(1), 1)

    def defer(self, features: Array, psi: Array) -> Array:
        """Map features (N, F) and people (M, R) to deferral logits (N, M)."""
        shape = (len(features), len(psi))
        pairs = [jnp.broadcast_to(features[:, None], (*shape, features.shape[1]))]
        pairs += [jnp.broadcast_to(psi, (*shape, psi.shape[1]))]
        return self.rejector(jnp.concatenate(pairs, -1).reshape(prod(shape), -1)).reshape(shape)


@lru_cache(maxsize=64)
def structure(sizes: Sizes) -> nnx.GraphDef:
    """Everything about a network except its weights."""
    return nnx.graphdef(nnx.eval_shape(lambda: PopulationL2D(*sizes, rngs=nnx.Rngs(0))))


@partial(jax.jit, static_argnums=0)
def start(sizes: Sizes, rng_key: Array) -> tuple[Any, optax.OptState]:
    """Draw the weights, and start Adam."""
    params = nnx.state(PopulationL2D(*sizes, rngs=nnx.Rngs(rng_key)), nnx.Param)
    return params, optax.adam(0.0).init(params)  # Adam's state does not depend on the learning rate


@partial(jax.jit, static_argnums=(0, 1, 2))
def train_steps(
    sizes: Sizes,
    context_size: int,
    batch_size: int,
    learning_rate: float,
    rng_key: Array,
    data: Mapping[str, Array],
    carry: tuple[Any, optax.OptState],
    numbers: Array,
) -> tuple[tuple[Any, optax.OptState], Array]:
    """Take the steps with the given numbers; return the state and the losses."""
    optimizer = optax.adam(learning_rate)

    def loss(params: Any, rows: Array, context: Array) -> Array:
        return _objective(nnx.merge(structure(sizes), params), data, rows, context)

    def step(carry: tuple, number: Array) -> tuple[tuple, Array]:
        params, state = carry
        drawn = _draw(jax.random.fold_in(rng_key, number), data, context_size, batch_size)
        value, gradient = jax.value_and_grad(loss)(params, *drawn)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, carry, numbers)


def _draw(rng_key: Array, data: Mapping[str, Array], context_size: int, batch_size: int) -> tuple[Array, Array]:
    """Draw target items (B,) and everybody's context items (M, S)."""
    key_rows, key_context = jax.random.split(rng_key)
    rows = data["targets"][jax.random.randint(key_rows, (batch_size,), 0, data["num_targets"])]
    places = jax.random.randint(key_context, (len(data["contexts"]), context_size), 0, data["num_contexts"][:, None])
    return rows, jnp.take_along_axis(data["contexts"], places, 1)


def _objective(network: PopulationL2D, data: Mapping[str, Array], rows: Array, context: Array) -> Array:
    # Evaluate the targets, which people share, and all contexts at once.
    features = network.features(data["x"][jnp.concatenate([rows, context.ravel()])])
    targets, others = features[: len(rows)], jax.lax.stop_gradient(features[len(rows) :])
    said = jnp.take_along_axis(data["annotations"].T, context, 1)
    psi = network.represent(others.reshape(*context.shape, -1), said, data["y"][context])
    class_logits = data["class_logits"][rows] if "class_logits" in data else network.classify(targets)
    return _surrogate_loss(class_logits, network.defer(targets, psi), data["annotations"][rows], data["y"][rows])


def _surrogate_loss(class_logits: Array, deferral_logits: Array, annotations: Array, y: Array) -> Array:
    """Softmax surrogate of logits (B, C) and (B, M), annotations (B, M) and truth (B,), -1 missing."""
    # The softmax of person m is over C + 1 logits: there is a normaliser for each pair.
    normaliser = jnp.logaddexp(jax.nn.logsumexp(class_logits, -1)[:, None], deferral_logits)
    of_truth = jnp.take_along_axis(class_logits, jnp.maximum(y, 0)[:, None], 1) - normaliser
    of_deferral = jnp.where(annotations == y[:, None], deferral_logits - normaliser, 0)
    present = (annotations >= 0) & (y >= 0)[:, None]
    number = present.sum(0)
    means = -jnp.where(present, of_truth + of_deferral, 0).sum(0) / jnp.maximum(number, 1)
    return means.sum() / jnp.maximum((number > 0).sum(), 1)


@nnx.jit
def represent(network: PopulationL2D, x: Array, annotations: Array, y: Array) -> Array:
    """Represent people, (M, R), by annotations (N, M) and truth (N,) on inputs (N, ...)."""
    features = network.features(x)
    # One person after another: all contexts together may not fit into memory.
    return jax.lax.map(lambda said: network.represent(features[None], said[None], y[None])[0], annotations.T)


@nnx.jit
def classify(network: PopulationL2D, x: Array) -> Array:
    """Class logits (N, C) of inputs (N, ...)."""
    return network.classify(network.features(x))


@nnx.jit
def defer(network: PopulationL2D, x: Array, representation: Array) -> Array:
    """Deferral logits (N, M) of inputs (N, ...) and people (M, R)."""
    features = network.features(x)
    return jax.lax.map(lambda psi: network.defer(features, psi[None])[:, 0], representation).T


def tables(annotations: NDArray, y: NDArray) -> dict[str, Array]:
    """Arrange annotations (N, M) and truth (N,), -1 missing, for drawing: eligible items come first.

    Targets (N,) are items with truth and some annotation; contexts (M, N) are those that a person annotated. Their
    numbers are returned too. The shapes do not depend on which labels are missing, so that no new compilation is
    needed.
    """
    usable = (annotations >= 0) & (y >= 0)[:, None]
    target = usable.any(1)
    lists: dict[str, Any] = {
        "targets": (~target).argsort(kind="stable"),
        "num_targets": target.sum(),
        "contexts": (~usable).argsort(0, kind="stable").T,
        "num_contexts": usable.sum(0),
    }
    labels = {"annotations": annotations, "y": y}
    return {name: jnp.asarray(indices, jnp.int32) for name, indices in (labels | lists).items()}
