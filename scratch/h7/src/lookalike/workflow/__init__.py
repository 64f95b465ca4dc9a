"""Whole jobs: mining from two embedding tables, the demo, the doctor."""
