"""Data for learning to defer: containers, their readers and writers, and ways to split them."""

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.npz import read_npz, write_npz
from pl2d_ppl.data.source import Part, Source
from pl2d_ppl.data.split import split, standardise

__all__ = ["Annotated", "Part", "Source", "read_npz", "split", "standardise", "write_npz"]
