"""Scores of queries against training examples."""
