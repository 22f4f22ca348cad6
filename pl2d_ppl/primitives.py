"""What models are written with: a few NumPyro sub-programs, each to be read, and replaced, on its own.

Data have three states. An argument that is left out (None) is generated. In an argument that is given, entries from 0
on are observed, and entries of -1 are missing: they have no effect, and stay -1 in draws.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module, random_nnx_module
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex

from pl2d_ppl.distributions.answers import ABSENT, EXACT, label_channel
from pl2d_ppl.engine.chosen import chosen
from pl2d_ppl.networks import Frozen, NotGiven, instantiate

__all__ = [
    "ENUMERATE",
    "MISSING",
    "Network",
    "answers",
    "cluster_member",
    "items",
    "network",
    "observe",
    "partly_known",
    "with_ai",
]

ENUMERATE = {"enumerate": "parallel"}
MISSING = -1

Network = nnx.Module | Callable[..., nnx.Module] | Frozen


def network(name: str, net: Network, x: Array, *, output: str | None = None, prior: Any = None) -> Array:
    """Evaluate a network, such as ``network("gating", gating, x, output="gate_logits", prior=dist.Normal(0.0, 1.0))``.

    Parameters
    ----------
    name : str
        Name of the network; its parameters are ``{name}$params``, or with a prior the sites ``{name}.{weight}``.
    net : nnx.Module, callable or Frozen
        A network to train, see :func:`~pl2d_ppl.networks.instantiate`, or a Frozen one, which is not trained.
    x : array, shape (N, ...)
        Inputs.
    output : str, optional
        Name of a deterministic site for the outputs.
    prior : Distribution, dict or callable, optional
        Prior of the weights, as for :func:`numpyro.contrib.module.random_nnx_module`. The weights are then continuous
        latent sites: give the guide ``continuous=normal(model)``.

    Returns
    -------
    array
        The network's outputs.

    Raises
    ------
    ValueError
        If the program neither has a seed to draw the network from nor was given the network's parameters, or a Frozen
        network has a prior.
    """
    outputs = _function(name, net, prior)(x)
    return outputs if output is None else numpyro.deterministic(output, outputs)


def _function(name: str, net: Network, prior: Any) -> Callable[[Array], Array]:
    if isinstance(net, Frozen):
        if prior is not None:
            raise ValueError(
                f"Expected a network to train under a prior, found a Frozen one as {name!r}. Leave the prior out."
            )
        return net
    if prior is not None:
        return random_nnx_module(name, instantiate(net), prior=prior, scope_divider=".")
    function = nnx_module(name, instantiate(net))
    if any(isinstance(weight, NotGiven) for weight in jax.tree.leaves(function.args)):
        raise ValueError(
            f"Expected a program with a seed, or with parameters for all its networks, found neither for {name!r}. Use "
            f"handlers.seed(model, rng_key), or substitute(model, data=params) with '{name}$params' among them."
        )
    return function


def items(x: Array, num_items: int | None = None, *, dim: int = -2) -> numpyro.plate:
    """Plate ``item`` over the rows of x.

    Parameters
    ----------
    x : array, shape (N, ...)
        Anything with a row for each item.
    num_items : int, optional
        Size of the whole data set, if x is a mini-batch of it: weighs the items against priors.
    dim : int
        Dimension of the plate.

    Returns
    -------
    numpyro.plate
        The plate.
    """
    return numpyro.plate("item", max(num_items or 0, len(x)), subsample_size=len(x), dim=dim)


def observe(name: str, fn: dist.Distribution, values: Array | None) -> Array:
    """Sample a site: generated if there are no values, observed where they are from 0 on, masked where they are -1.

    Parameters
    ----------
    name : str
        Name of the site.
    fn : Distribution
        Its distribution, of categories or counts.
    values : array of int, optional
        Its values, in the shape of the plates; or of shape (N,), one for each item.

    Returns
    -------
    array
        The values, generated or as given.
    """
    if values is None:
        return numpyro.sample(name, fn, infer=dict(ENUMERATE) if fn.has_enumerate_support else {})
    values = values[:, None] if values.ndim == 1 and len(fn.batch_shape) > 1 else values
    with mask(mask=values >= 0):
        return numpyro.sample(name, fn, obs=values)


def partly_known(name: str, logits: Array, values: Array | None, *, observed: str) -> Array:
    """Sample a category that is known at some places: latent elsewhere, and equal to the known one there.

    Parameters
    ----------
    name : str
        Name of the latent site.
    logits : array, shape (..., C)
        Logits of the categories.
    values : array of int, optional
        Known categories, -1 where missing, in the shape of the plates. Without them all are generated.
    observed : str
        Name of the observed site, which has the probability of the known categories.

    Returns
    -------
    array of int
        The value of the latent site.
    """
    if values is not None:
        observe(observed, dist.Categorical(logits=logits), values)
        known = label_channel(logits.shape[-1], EXACT)[values]
        logits = jnp.where(values[..., None] >= 0, known, logits)
    return numpyro.sample(name, dist.Categorical(logits=logits), infer=dict(ENUMERATE))


def with_ai(belief_logits: Array, ai_logits: Array, *, trains_ai: bool = False) -> Array:
    """Add the AI as the last decider: deterministic site ``belief_logits``.

    Parameters
    ----------
    belief_logits : array, shape (N, M, C)
        Logits of what M people would say.
    ai_logits : array, shape (N, C)
        Logits of what the AI says.
    trains_ai : bool
        Whether the truth, as read off the AI, also trains the AI; in paper A's algorithm it does not.

    Returns
    -------
    array, shape (N, M+1, C)
        Logits of what everybody would say.
    """
    ai_belief = ai_logits if trains_ai else jax.lax.stop_gradient(ai_logits)
    return numpyro.deterministic("belief_logits", jnp.concatenate([belief_logits, ai_belief[:, None]], axis=1))


def answers(
    decider: Array,
    belief_logits: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    *,
    label_noise: float = 1e-3,
) -> None:
    """Generate what everybody would say, and the truth that the decider gets right but for noise.

    Sites, in the plate ``expert`` of M+1 deciders (dim -1): latent ``t``, which is the annotation where somebody
    annotated the item; observed ``annotation``. The truth is "``y`` through decider m, where m decides": written so,
    and not as ``t[decider]`` outside of the plate, it can be enumerated, at a cost of M C for each item.

    Arguments that are left out are generated: ``annotation``, what the M people say, and ``y``, of which ``y_by`` has
    the versions of all deciders.

    Parameters
    ----------
    decider : array of int, shape (N, 1)
        Value of the site that says who decides, M for the AI.
    belief_logits : array, shape (N, M+1, C)
        Logits of what everybody would say, the AI last.
    annotations : array of int, shape (N, M), optional
        Annotations of people, -1 where missing.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown.
    label_noise : float
        Probability that the truth is drawn at random instead of read off the decider.
    """
    num_deciders, num_categories = belief_logits.shape[-2:]
    everybody = jnp.arange(num_deciders)
    with numpyro.plate("expert", num_deciders, dim=-1):
        said = None if annotations is None else jnp.pad(annotations, ((0, 0), (0, 1)), constant_values=MISSING)
        t = partly_known("t", belief_logits, said, observed="annotation")
        read = dist.Categorical(logits=label_channel(num_categories, label_noise)[t])
        if y is not None:
            with chosen(index=decider, size=num_deciders):
                observe("y", read, y)
        else:
            by = observe("y_by", read, None)
    if y is None:
        numpyro.deterministic("y", jnp.where(decider == everybody, by, 0).sum(-1, keepdims=True))
    if said is None:
        numpyro.deterministic("annotation", (t + 0 * everybody)[..., :-1])


def cluster_member(gate_logits: Array, membership: Array, may_decide: Array | None = None) -> Array:
    """Choose a cluster of people by the gate, and a person by their membership in it: sites ``v`` and ``w``.

    Parameters
    ----------
    gate_logits : array, shape (N, K+1)
        Logits of the clusters, the AI last.
    membership : array, shape (K, M)
        Omega, whose rows are normalised here.
    may_decide : array of bool, shape (N, M), optional
        Who may decide an item; a cluster of which nobody may is not chosen. By default everybody.

    Returns
    -------
    array of int, shape (N, 1)
        Value of ``w``: a person, or M for the AI.
    """
    num_clusters, num_people = membership.shape
    staff = jnp.zeros((num_clusters + 1, num_people + 1)).at[:-1, :-1].set(membership).at[-1, -1].set(1.0)[None]
    if may_decide is not None:
        staff = staff * jnp.pad(may_decide, ((0, 0), (0, 1)), constant_values=True)[:, None]
    shares = jnp.where(staff > 0, jnp.log(jnp.where(staff > 0, staff, 1.0)), ABSENT)
    nobody = staff.sum(-1) <= 0
    asked = (gate_logits + ABSENT * nobody)[:, None]
    v = numpyro.sample("v", dist.Categorical(logits=asked), infer=dict(ENUMERATE))
    return numpyro.sample("w", dist.Categorical(logits=Vindex(shares[:, None])[..., v, :]), infer=dict(ENUMERATE))
