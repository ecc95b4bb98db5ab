"""Examples that stay where they are: in files, in tables, in data sets that make them on demand."""
