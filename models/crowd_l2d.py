"""Learning to defer to named people where the truth is known of none, some, or all items."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam
from numpyro.ops.indexing import Vindex

from pl2d_ppl.checks.declared import declares, indices, labels, memberships
from pl2d_ppl.checks.models import check_crowd
from pl2d_ppl.networks import Frozen
from pl2d_ppl.primitives import ENUMERATE, items, network, observe, partly_known

__all__ = ["crowd_l2d"]


@declares(
    labels("annotations", categories="ai_logits"),
    labels("y", categories="ai_logits", shape=("N",)),
    indices("people", below="membership"),
    memberships("membership"),
)
def crowd_l2d(
    x: Array,
    annotations: Array | None = None,
    y: Array | None = None,
    people: Array | None = None,
    *,
    membership: Any,
    classifier: nnx.Module | Callable[..., nnx.Module] | Frozen,
    sharpness: float = 20.0,
    num_items: int | None = None,
) -> None:
    """Generate the truth of items, what people say who confuse categories, and who decides.

    A person m is a matrix of logits: in row y, how often they say each category where the truth is y. So is a cluster.
    With Omega the given membership::

        mean_k         ~ Normal(ability [c = y], scale)          a cluster, (C, C)
        person_m       ~ Normal(sum_k Omega_km mean_k, spread)   a person, around their cluster
        y_i            ~ Categorical(classifier(x_i))            the truth: observed as gold where it is known
        annotation_im  ~ Categorical(softmax(person_m[y_i]))     what person m says, observed where they did
        z_i            ~ Categorical(softmax_m(sharpness chance_im))     who should decide, or M for the AI

    Here chance_im is the expected chance that person m is right, sum_c f_c(x_i) softmax(person_m[c])_c with f the
    classifier's probabilities; the AI's is max_c f_c(x_i). Nothing depends on z: who decides is a decision.

    With one cluster and a classifier that ignores x, this is the model of Dawid and Skene with a prior. With the truth
    of all items known, it is :func:`~pl2d_ppl.models.pooled_l2d.pooled_l2d` with matrices of confusion. Categories
    cannot switch places as long as people are mostly right, as the prior of ``ability`` says; known truth (gold) also
    prevents it.

    The guide is ``exact(model, ["z"], continuous=normal(model))``, which sums the truth out at a cost of C for each
    annotation; ``exact(model, ["y", "z"], ...)`` keeps its posterior. Newcomers join by
    :class:`~pl2d_ppl.people.pooled.PooledPeople`, with or without gold. Weigh a prior on the classifier's weights where
    it stands: ``network("classifier", classifier, x, output="ai_logits", prior=dist.Normal(0.0, 1.0))``.

    Sites: plates ``item`` (dim -2), and ``expert`` (dim -1), or ``answer`` with ``people``; latent ``ability``,
    ``scale`` and ``spread`` (2,), of the diagonal and of the rest, ``cluster_mean`` (K, C, C) and ``person`` (M, C, C)
    in units of their spread (hence ``_decentered``), ``y``, ``z``; observed ``gold``, ``annotation``; deterministic
    ``ai_logits`` (N, C), ``confusion`` (M, C, C), probabilities, and ``gate_logits`` (N, M+1). Plate diagram:
    docs/models/crowd_l2d.

    Parameters
    ----------
    x : array, shape (N, ...)
        Inputs.
    annotations : array of int, shape (N, M) or (N, L), optional
        Annotations of people, -1 where missing. Without this argument they are generated.
    y : array of int, shape (N,), optional
        Truth, -1 where unknown. Without this argument it is unknown of all items.
    people : array of int, shape (N, L), optional
        Who gave each of the annotations (N, L), where most people annotated few items: see
        :func:`~pl2d_ppl.data.listed.list_annotations`. By default the annotations are those of all M people.
    membership : array, shape (K, M)
        Omega, whose columns sum to one; pass ones of shape (1, M) if there are no clusters.
    classifier : nnx.Module, callable or Frozen
        Network from x to logits of shape (N, C): the AI, trained from what people say.
    sharpness : float
        Inverse temperature of the gate: how strongly it prefers those who are more likely to be right.
    num_items : int, optional
        Size of the whole data set when x is a mini-batch of it: weighs the items against the priors.

    References
    ----------
    Dawid, Skene (1979). Maximum likelihood estimation of observer error-rates using the EM algorithm. Applied
    Statistics. Raykar et al. (2010). Learning from crowds. JMLR.
    """
    ai_logits = network("classifier", classifier, x, output="ai_logits")
    check_crowd(ai_logits, annotations, people, membership)
    num_categories, (num_clusters, num_people) = ai_logits.shape[1], jnp.shape(membership)
    own = jnp.eye(num_categories, dtype=int)  # which of two scales an entry of a matrix has

    with reparam(config={name: LocScaleReparam(0.0) for name in ("cluster_mean", "person")}):
        ability = numpyro.sample("ability", dist.Normal(2.0, 0.5))
        scale = numpyro.sample("scale", dist.HalfNormal(jnp.array([0.5, 1.0])).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(jnp.array([0.3, 1.0])).to_event(1))
        clusters = dist.Normal(ability * own, scale[own]).expand([num_clusters, num_categories, num_categories])
        cluster_mean = numpyro.sample("cluster_mean", clusters.to_event(3))
        mean = jnp.einsum("km,kyc->myc", jnp.asarray(membership), cluster_mean)
        person = numpyro.sample("person", dist.Normal(mean, spread[own]).to_event(3))

    confusion = numpyro.deterministic("confusion", jax.nn.softmax(person, -1))
    ai_probs = jax.nn.softmax(jax.lax.stop_gradient(ai_logits), -1)
    chances = ai_probs @ jnp.diagonal(jax.lax.stop_gradient(confusion), axis1=1, axis2=2).T
    chances = jnp.concatenate([chances, ai_probs.max(-1, keepdims=True)], axis=1)
    gate_logits = numpyro.deterministic("gate_logits", sharpness * chances)
    asked = jnp.arange(num_people) if people is None else people

    with items(x, num_items):
        numpyro.sample("z", dist.Categorical(logits=gate_logits[:, None]), infer=dict(ENUMERATE))
        truth = partly_known("y", ai_logits[:, None], None if y is None else y[:, None], observed="gold")
        with numpyro.plate("expert" if people is None else "answer", asked.shape[-1], dim=-1):
            observe("annotation", dist.Categorical(logits=Vindex(person)[asked, truth, :]), annotations)
