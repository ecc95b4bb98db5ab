"""A model's layers, seen while it runs."""
