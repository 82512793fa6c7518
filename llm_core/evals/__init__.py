"""Suites that score models: pure functions of a model, held-out documents and a recipe's evaluate section."""
