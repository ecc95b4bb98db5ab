"""An evaluation as tables and sentences of plain text."""
