"""Figures that anyone can measure again: `python -m benchmarks embed` and `python -m benchmarks search`."""
