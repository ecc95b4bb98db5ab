"""Passes over the data, sharing, costs: what runs when."""
