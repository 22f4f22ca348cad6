"""Choose who decides each item on a given day, within bounds, and evaluate the decisions."""
