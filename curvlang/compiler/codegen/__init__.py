"""Contractions to torch code."""
