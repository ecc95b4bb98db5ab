"""The models that a spec can ask for."""
