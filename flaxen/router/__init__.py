"""Decides which model answers a request, from what it asks (issue 19).

Knows: the parsed request, the signals of the configuration, decisions over three values.
Deliberately does not know: JAX, the engine, HTTP, and what time it is.
"""
