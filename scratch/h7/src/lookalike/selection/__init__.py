"""Which pairs are kept, and why: pure arrays, no files, no torch."""
