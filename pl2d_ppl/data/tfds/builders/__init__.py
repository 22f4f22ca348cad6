"""Builders of data sets with annotators, for TensorFlow Datasets (TFDS), from files that the user provides.

Importing them registers their names with TFDS; :func:`pl2d_ppl.data.load_tfds` does so. No builder needs TensorFlow.
"""

from pl2d_ppl.data.tfds.builders.base import AnnotatedBuilder, Contents, Item
from pl2d_ppl.data.tfds.builders.chaoyang import Chaoyang
from pl2d_ppl.data.tfds.builders.cifar import Cifair100, Cifar100Python
from pl2d_ppl.data.tfds.builders.dopanim import Dopanim
from pl2d_ppl.data.tfds.builders.folder import FolderBuilder
from pl2d_ppl.data.tfds.builders.mice_bone import MiceBone
from pl2d_ppl.data.tfds.builders.nih import NihAirspaceOpacity

__all__ = [
    "AnnotatedBuilder",
    "Chaoyang",
    "Cifair100",
    "Cifar100Python",
    "Contents",
    "Dopanim",
    "FolderBuilder",
    "Item",
    "MiceBone",
    "NihAirspaceOpacity",
]
