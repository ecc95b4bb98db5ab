"""Names resolved, chains checked."""
