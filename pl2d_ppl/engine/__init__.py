"""The engine reads a NumPyro program as a graph of factors; it knows no model.

Exact marginals, mean field, the ELBO, and the handlers ``tilt`` and ``workload``.
"""
