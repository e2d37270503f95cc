"""Definitions in Flax: modules of NNX and of Linen as Models."""
