"""Losses per example, and the metrics of queries."""
