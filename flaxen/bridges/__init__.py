"""Turns definitions of other libraries into Models: Flax, PyTorch, or a plain JAX function.

For each framework one file turns a definition into a pure function, and `function.py` turns that
function into a Model. A framework is imported by its own file only.
"""
