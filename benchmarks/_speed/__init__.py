"""How the speed benchmarks measure: worker processes, rounds in which they take turns, limits, tables."""
