"""Losses per example, and what is asked of a query."""
