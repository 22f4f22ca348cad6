"""Independent float64 references for the library: brute force, closed forms and convex programs.

Nothing here imports the library or JAX. Equation numbers are those of ``mathematics.md``. Person ``M`` (the
last one) is the AI; ``-1`` marks a missing annotation and an unknown truth.
"""
