"""What is known of the training examples before any query: projected gradients in a store, scored against later."""
