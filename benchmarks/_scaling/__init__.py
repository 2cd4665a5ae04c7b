"""Counts and formulas of `benchmarks.scaling_on_paper`."""
