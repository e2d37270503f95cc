"""Tells routers which prefixes an engine has in its KV cache, in vLLM's format over ZeroMQ.

Knows: events as plain values, sockets. Deliberately does not know: pages, sequences, JAX
(decision 0365).
"""
