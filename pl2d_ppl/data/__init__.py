"""Data for learning to defer: containers, their readers and writers, and ways to split them."""

from pl2d_ppl.data.annotated import Annotated
from pl2d_ppl.data.npz import read_npz, write_npz
from pl2d_ppl.data.split import split, standardise
from pl2d_ppl.data.votes import Votes, read_votes

__all__ = ["Annotated", "Votes", "read_npz", "read_votes", "split", "standardise", "write_npz"]
