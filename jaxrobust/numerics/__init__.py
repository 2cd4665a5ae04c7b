"""Numerics: losses, norms, projections, metrics, and convolution and pooling that are fast on CPU too."""
