"""What the body of a transformation says: index letters, tensors, choices, rounds."""
