"""Scores that a formula states: its products over the parameters streamed, the rest computed chunk by chunk."""
