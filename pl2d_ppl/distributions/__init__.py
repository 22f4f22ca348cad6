"""Distributions that the models use, in addition to NumPyro's own."""
