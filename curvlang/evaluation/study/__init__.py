"""Studies: many cells, one table."""
