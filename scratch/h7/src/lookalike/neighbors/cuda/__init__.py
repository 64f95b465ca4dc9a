"""The search on a CUDA device."""
