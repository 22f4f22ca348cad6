"""Clusters of people from anonymous votes: fits, evidence, and the number of clusters."""
