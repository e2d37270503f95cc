"""Turns modules of Flax NNX and Flax Linen into Models."""
