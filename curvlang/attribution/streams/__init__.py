"""Scores as they come: cut into chunks, shared over processes, collected, written, or reduced to extremes."""
