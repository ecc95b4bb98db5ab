"""The façade: all that a user imports."""
