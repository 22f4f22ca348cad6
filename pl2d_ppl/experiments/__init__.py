"""Methods side by side: curves, seeds, onboarding, reports."""
