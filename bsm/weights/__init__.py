"""Weights on disk: our files, the layouts of others, and named weights."""
