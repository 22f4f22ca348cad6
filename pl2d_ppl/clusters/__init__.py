"""Clusters of people from anonymous votes: fits, evidence, and how many there are."""
