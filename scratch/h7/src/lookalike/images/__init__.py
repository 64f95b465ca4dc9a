"""Locate, decode and preprocess images, and what becomes of a file that cannot be read."""
