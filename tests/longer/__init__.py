"""Runs of minutes that are started by hand: `python -m tests.longer.kills`."""
