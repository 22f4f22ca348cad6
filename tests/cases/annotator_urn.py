"""A staff, its votes by brute force, and problems for the tests of the annotator urn."""

import itertools
import math
from collections import defaultdict
from functools import partial

import jax
import numpy as np
from numpyro.handlers import block
from numpyro.infer import init_to_mean
from numpyro.infer.autoguide import AutoDelta
from programs import Table, table
from scipy.special import expit, softmax
from scipy.stats import norm

from pl2d_ppl.distributions.staff_votes import right_votes
from pl2d_ppl.guides.exact import exact
from pl2d_ppl.models.annotator_urn import annotator_urn

KEY = jax.random.key(0)
LOG_ZERO = -1e29  # what counts as impossible


def vote_probs(skill, errors, truth):
    """Probability of every vote of somebody, shape (C,), given probabilities of errors, shape (C,)."""
    probs = (1 - skill) * np.where(np.arange(len(errors)) == truth, 0.0, errors)
    probs[truth] = skill
    return probs


def count_probs(votes_of, num_votes):
    """Probabilities of counts, given those of everybody's vote, shape (M, C): voters are any so many people."""
    num_people, num_categories = votes_of.shape
    sets = list(itertools.combinations(range(num_people), num_votes))
    probs = defaultdict(float)
    for voters in sets:
        for said in itertools.product(range(num_categories), repeat=num_votes):
            counts = tuple(np.bincount(np.array(said, int), minlength=num_categories))
            probs[counts] += math.prod(votes_of[m, c] for m, c in zip(voters, said, strict=True)) / len(sets)
    return dict(probs)


def staff(skills, sizes):
    """Probability of being right, one a person."""
    return np.repeat(np.asarray(skills, float), sizes, axis=0)


PATTERNS = jax.jit(right_votes, static_argnums=2)


def log_right_of(skills, sizes):
    skills = np.asarray(skills)
    return PATTERNS(table(np.log(skills)), table(np.log1p(-skills)), sizes)


NUM_CATEGORIES = 3


def problem(num_items=6, sizes=(2, 1), seed=0):
    """Parameters, given as logits, and votes of at most everybody: with gaps, and an item without."""
    rng = np.random.default_rng(seed)
    votes = rng.integers(0, NUM_CATEGORIES, (num_items, sum(sizes)))
    votes[1, 0] = votes[4, 1:] = votes[2] = -1
    return {
        "logits": rng.standard_normal((num_items, NUM_CATEGORIES)),
        "skill_mean": 1.0 + rng.standard_normal((len(sizes), 1)),
        "skill": 1.0 + rng.standard_normal((len(sizes), NUM_CATEGORIES)),
        "errors": rng.standard_normal((NUM_CATEGORIES, NUM_CATEGORIES)),
        "votes": votes,
        "sizes": sizes,
    }


def counts_of(votes, num_categories=NUM_CATEGORIES):
    return np.stack([(votes == c).sum(1) for c in range(num_categories)], 1)


def latent(p):
    return {name: table(p[name]) for name in ("skill_mean", "skill", "errors")}


def error_probs(errors):
    return softmax(np.where(np.eye(len(errors), dtype=bool), -np.inf, errors), -1)


def joint_by_item(p):
    """p(counts, y) of every item, by sums over people and votes, shape (N, C)."""
    errors, joint = error_probs(p["errors"]), softmax(p["logits"], -1)
    for y in range(NUM_CATEGORIES):
        votes_of = np.array([vote_probs(s, errors[y], y) for s in staff(expit(p["skill"][:, y]), p["sizes"])])
        by_total = [count_probs(votes_of, total) for total in range(sum(p["sizes"]) + 1)]
        for i, counts in enumerate(counts_of(p["votes"]).tolist()):
            joint[i, y] *= by_total[sum(counts)][tuple(counts)]
    return joint


def log_prior(p):
    typical = np.linspace(2.5, 0.5, len(p["sizes"]))[:, None]
    return (
        norm(typical, 1.0).logpdf(p["skill_mean"]).sum()
        + norm(p["skill_mean"], 0.3).logpdf(p["skill"]).sum()
        + norm(0.0, 1.0).logpdf(p["errors"]).sum()
    )


def urn_of_table(logits, sizes, num_items=None):
    return partial(annotator_urn, truth=Table(logits), sizes=sizes, num_items=num_items)


def exact_guide(model, init=init_to_mean):
    return exact(model, continuous=AutoDelta(block(model, hide=["y"]), init_loc_fn=init))
