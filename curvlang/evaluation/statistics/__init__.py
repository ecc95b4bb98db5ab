"""Rank correlations, intervals and comparisons."""
