"""The router over HTTP: decides requests, sends them to models, and tells how (decision 0348).

Knows: ASGI, the router's configuration, the APIs' paths. Deliberately does not know: JAX, the
engine, and how a signal is computed.
"""
