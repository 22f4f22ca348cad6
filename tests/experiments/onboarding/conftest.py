"""Fixtures that tests of this folder share."""

import pytest
from cases.onboarding import Trained, network


@pytest.fixture
def trained(monkeypatch):
    """Nothing is trained."""
    seen = Trained([], [])

    def classifier(key, x, y, num_categories, **settings):
        seen.ai.append((x, y))
        return network(x.shape[1])

    def clusters(key, x, counts, num_clusters, **settings):
        seen.clusters.append((x, counts))
        return [None]

    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.firm.train_classifier", classifier)
    monkeypatch.setattr("pl2d_ppl.experiments.onboarding.firm.fit_clusters", clusters)
    return seen
