"""Flax networks that programs take."""

from pl2d_ppl.networks.choice import network_for
from pl2d_ppl.networks.convolutional import ConvNet
from pl2d_ppl.networks.ensemble import Ensemble
from pl2d_ppl.networks.frozen import Frozen
from pl2d_ppl.networks.mlp import MLP
from pl2d_ppl.networks.mode import MODE_MESSAGE, NotGiven, evaluation, instantiate

__all__ = [
    "MLP",
    "MODE_MESSAGE",
    "ConvNet",
    "Ensemble",
    "Frozen",
    "NotGiven",
    "evaluation",
    "instantiate",
    "network_for",
]
