"""The laws of the house, held by the source text."""
