"""Data in files, read without running code."""
