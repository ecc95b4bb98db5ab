"""What is run where there is a GPU: equality with the CPU, waits, and speed as a share of what the card can do."""
