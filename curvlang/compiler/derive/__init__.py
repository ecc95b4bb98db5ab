"""From typed chains to tensor programs."""
