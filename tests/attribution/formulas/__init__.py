"""Tests of scores that formulas state."""
