"""Diagnostics as data, and what holds their codes together."""
