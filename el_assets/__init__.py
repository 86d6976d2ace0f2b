"""Software-defined assets that make and choose long-context training data."""
