"""Where identified people belong among clusters, and people who are partially pooled by them."""
