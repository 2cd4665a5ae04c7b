"""What `scripts/gpu_report.py` is made of."""
