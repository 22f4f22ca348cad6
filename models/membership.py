"""Membership of an identified person in clusters of people (paper B)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from pl2d_ppl.checks.concentration import check_concentration
from pl2d_ppl.checks.declared import declares, labels
from pl2d_ppl.distributions.categorical_mixture import CategoricalMixture
from pl2d_ppl.primitives import items, observe

__all__ = ["membership"]


@declares(labels("annotations"))
def membership(cluster_probs: Array, annotations: Array | None = None, *, concentration: Any = 1.0) -> None:
    """Generate the annotations of one person, each as one of K clusters of people would give it.

    With h_k(c | x) the given probability that a person in cluster k gives category c to item x::

        omega        ~ Dirichlet(concentration)                   how much of the person is in each cluster
        annotation_j ~ Categorical(sum_k omega_k h_k(x_j))        the person's annotation of item j

    An item has one annotation of this person, so that an item's own proportions u_j ~ Dirichlet(alpha), as in the
    annotator LDA, would integrate out to their mean: annotations depend only on omega = alpha / sum(alpha), not on
    sum(alpha). Their likelihood is concave in omega. The prior determines how many clusters a person is in: few below
    1, many above 1.

    Sites: latent ``membership`` (K,); plate ``item`` (dim -1); observed ``annotation``. Plate diagram:
    docs/models/membership.

    :func:`~pl2d_ppl.people.place.sample_membership` and :func:`~pl2d_ppl.people.place.maximise_membership` need only
    ``membership``, which may also be a deterministic site: edit the rest as you like.

    Parameters
    ----------
    cluster_probs : array of float, shape (N, K, C)
        h: probabilities of the categories, which sum to one over C.
    annotations : array of int, shape (N,), optional
        Annotations of the person, -1 where missing. Without this argument, annotations of all items are generated.
    concentration : float or array of float, shape (K,)
        Positive concentration of the prior.

    References
    ----------
    Learning to Defer on Anonymously-Annotated Data, equations B.2 and B.3.
    """
    num_clusters = np.shape(cluster_probs)[1]
    check_concentration(concentration, num_clusters, "concentration", "1 for a uniform prior")
    concentration = jnp.broadcast_to(jnp.asarray(concentration, jnp.result_type(float)), (num_clusters,))
    omega = numpyro.sample("membership", dist.Dirichlet(concentration))
    with items(cluster_probs, dim=-1):
        # Categorical(omega @ cluster_probs), but C times cheaper if the category is observed.
        observe("annotation", CategoricalMixture(omega, cluster_probs), annotations)
