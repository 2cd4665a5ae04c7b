"""`python -m benchmarks` runs them all."""

from benchmarks import step_times

step_times.main()
