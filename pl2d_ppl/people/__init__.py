"""Memberships of identified people in clusters, and people who are partially pooled by clusters."""
