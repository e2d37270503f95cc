"""Plans serving and training on hardware that is not here: what fits, and how fast it can be."""
