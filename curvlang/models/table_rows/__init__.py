"""Rows of tables as checkpoints read them: texts, words, pairs and images, with their labels."""
