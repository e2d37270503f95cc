"""Several models in one server: which of them are in memory, and which of them a request is for.

Knows: one budget of memory, loading and unloading, the applications of single models. Deliberately
does not know: JAX, how a model is loaded, what a request asks of its model.
"""
