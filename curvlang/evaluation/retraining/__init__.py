"""Retraining in stacks: which models are trained together, how, and under which names they are kept."""
