"""Methods from the literature, for comparison."""
