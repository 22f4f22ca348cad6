"""Probabilistic learning to defer, written as NumPyro programs.

Models lie in :mod:`pl2d_ppl.models`, guides in :mod:`pl2d_ppl.guides`: edit them. What is exported here is the engine,
which imports neither.
"""

from pl2d_ppl.baselines.average_dirichlet import average_dirichlet
from pl2d_ppl.clusters.fit import fit_clusters, held_out
from pl2d_ppl.data import Annotated, read_npz, split, standardise, write_npz
from pl2d_ppl.deferral.classifier import train_classifier
from pl2d_ppl.deferral.deferral import Deferral
from pl2d_ppl.deferral.offsets import argmax_offsets
from pl2d_ppl.distributions.empirical import membership_draws
from pl2d_ppl.engine.elbo import EnumELBO
from pl2d_ppl.engine.marginals import log_evidence, marginals
from pl2d_ppl.engine.projection import Projection, project
from pl2d_ppl.engine.workload import tilt, workload
from pl2d_ppl.inference.arviz import to_datatree
from pl2d_ppl.inference.checkpoint import load
from pl2d_ppl.inference.compiled import PerRun
from pl2d_ppl.inference.fit import NonFiniteLossError, fit
from pl2d_ppl.inference.result import FitResult, Prediction
from pl2d_ppl.networks import MLP, ConvNet, Ensemble, Frozen, evaluation, instantiate
from pl2d_ppl.people.membership import Membership
from pl2d_ppl.people.place import maximise_membership, sample_membership
from pl2d_ppl.people.place_in_clusters import place_people
from pl2d_ppl.people.pooled import PooledPeople

__all__ = [
    "MLP",
    "Annotated",
    "ConvNet",
    "Deferral",
    "Ensemble",
    "EnumELBO",
    "FitResult",
    "Frozen",
    "Membership",
    "NonFiniteLossError",
    "PerRun",
    "PooledPeople",
    "Prediction",
    "Projection",
    "argmax_offsets",
    "average_dirichlet",
    "evaluation",
    "fit",
    "fit_clusters",
    "held_out",
    "instantiate",
    "load",
    "log_evidence",
    "marginals",
    "maximise_membership",
    "membership_draws",
    "place_people",
    "project",
    "read_npz",
    "sample_membership",
    "split",
    "standardise",
    "tilt",
    "to_datatree",
    "train_classifier",
    "workload",
    "write_npz",
]
