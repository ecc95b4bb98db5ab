"""The commands, one file each: what it takes, its examples, and what it prints."""
