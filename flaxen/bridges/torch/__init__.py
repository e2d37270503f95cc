"""Definitions in PyTorch: modules, and classes of transformers, as Models."""
