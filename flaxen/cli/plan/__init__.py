"""`flaxen plan`: what fits on hardware that is not here, and how fast it can be."""
