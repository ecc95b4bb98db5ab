"""Runs a plan over model and data: streaming accumulators, batches, precision."""
