"""The study: result files with provenance, statistics, figures, benchmarks, claims, and the notebooks' runner.

This floor may import everything below it; nothing below imports it.
"""
