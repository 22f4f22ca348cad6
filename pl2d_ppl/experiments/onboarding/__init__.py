"""The onboarding experiment of paper B: from anonymous votes to deferral, with few items by identified people."""
