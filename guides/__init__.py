"""Variational families, one per file."""
