"""Distributions that the models are written with, beside NumPyro's own."""
