"""Passes over the data: chunks and batches, their leaves, and what follows from the sums."""
