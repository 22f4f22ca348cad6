"""Checks of arguments: each raises a ``ValueError`` before anything is compiled."""
