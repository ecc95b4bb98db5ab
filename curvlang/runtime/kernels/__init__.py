"""What generated code calls besides torch."""
