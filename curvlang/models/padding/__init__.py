"""Rows of different lengths: padded, cut to what a batch needs, and told from what does not count."""
