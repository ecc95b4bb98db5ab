"""Progress of long work: bars on a terminal, timed lines elsewhere, and in the log of a store."""
