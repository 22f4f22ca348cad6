"""Comparison of methods: curves, seeds, onboarding, reports."""
