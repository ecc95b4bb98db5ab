"""Bytes on disk: what is written whole, and what killed processes leave behind; no mathematics."""
