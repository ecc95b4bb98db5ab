"""What editors need: highlighting, and the language server. No torch."""
