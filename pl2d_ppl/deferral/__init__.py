"""Who decides each item on a given day, within bounds, and how good that is."""
