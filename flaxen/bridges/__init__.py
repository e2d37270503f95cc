"""Models that were defined elsewhere: in Flax, in PyTorch, or as a plain function of JAX.

Each way in is a file that makes a pure function of the definition; `function.py` makes a Model of
that. Only the file of a framework imports it.
"""
