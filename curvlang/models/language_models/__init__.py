"""Checkpoints and texts of language models, by `transformers`, `datasets` and `peft`."""
