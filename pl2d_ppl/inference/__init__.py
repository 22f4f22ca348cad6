"""Fit a program, keep the fit, and read its posterior."""
