"""Embeddings, scores and labels, before and after an engine: the tokens of texts and of pairs of
texts, and what is made of pooled vectors. The server and `LLM` share it.

Deliberately does not know: engines, HTTP, JAX.
"""
