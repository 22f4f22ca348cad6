"""Probabilistic learning to defer, written as NumPyro programs.

Models lie in :mod:`pl2d_ppl.models`, guides in :mod:`pl2d_ppl.guides`: edit them. What is exported here is the engine,
which imports neither.
"""

from pl2d_ppl.ai import train_classifier
from pl2d_ppl.averaging import average_dirichlet
from pl2d_ppl.checkpoint import load
from pl2d_ppl.clusters import fit_clusters, held_out
from pl2d_ppl.data import Annotated, read_npz, split, standardise, write_npz
from pl2d_ppl.deferral import Deferral
from pl2d_ppl.elbo import EnumELBO
from pl2d_ppl.empirical import membership_draws
from pl2d_ppl.handlers import tilt, workload
from pl2d_ppl.marginals import log_evidence, marginals
from pl2d_ppl.membership import Membership
from pl2d_ppl.networks import MLP, ConvNet, Ensemble, Frozen, evaluation, instantiate
from pl2d_ppl.offsets import argmax_offsets
from pl2d_ppl.place_people import place_people
from pl2d_ppl.placing import maximise_membership, sample_membership
from pl2d_ppl.pooling import PooledPeople
from pl2d_ppl.posterior import to_datatree
from pl2d_ppl.programs import PerRun
from pl2d_ppl.projection import Projection, project
from pl2d_ppl.result import FitResult, Prediction
from pl2d_ppl.train import NonFiniteLossError, fit

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
