"""Rows of data, from whatever a user has."""
