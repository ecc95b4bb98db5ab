"""Pages of the diagnostics, one for each code, carried by the package."""
