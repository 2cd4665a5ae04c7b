"""What `benchmarks.parity` is made of; no module imports JAX and PyTorch both."""
