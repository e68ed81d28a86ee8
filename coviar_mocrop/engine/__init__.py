"""Training and testing streams: the loop, the recipe, checkpoints."""
