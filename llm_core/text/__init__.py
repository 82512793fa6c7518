"""Documents: reading, cleaning, deduplication and splits, as plain functions without torch."""
