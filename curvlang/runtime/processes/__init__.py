"""Several processes as one run: who is there, what they tell each other, and how the data is cut."""
