"""Tests of scores as they come."""
