"""Fits in a store: keys, blocks, sums in between, and the operator that is read back."""
