"""What the mathematics is: index spaces, tensor expressions, and a direct interpreter. No torch."""
