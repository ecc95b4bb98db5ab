"""Training and retraining, many models at once."""
