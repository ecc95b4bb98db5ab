"""Files that ship with curvlang: grammars."""
