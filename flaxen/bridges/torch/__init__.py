"""Turns PyTorch modules and classes of transformers into Models."""
