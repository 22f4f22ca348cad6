"""Generative programs, one per file: edit them."""
