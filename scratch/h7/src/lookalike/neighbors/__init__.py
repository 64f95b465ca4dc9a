"""Exact nearest neighbours, blocked, in bounded memory."""
