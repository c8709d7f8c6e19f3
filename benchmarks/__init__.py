"""Ours against Django's engines and the bare driver: ``python -m benchmarks``."""
