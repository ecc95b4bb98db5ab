"""The store of a fit on the disk: what it is of, who works on it, its files; no mathematics."""
