"""Files that ship with curvlang: specs."""
