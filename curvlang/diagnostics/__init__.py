"""What is wrong, where, and what to do: diagnostics as data, and their rendering."""
