"""Curvatures and scores of other tools, read and written: kronfluence, bergson, dattri, curvlinops."""
