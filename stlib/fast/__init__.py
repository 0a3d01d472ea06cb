"""Training on a processor at its full speed: packed batches, their tokens, and what a step costs."""
