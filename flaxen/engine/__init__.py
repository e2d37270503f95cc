"""From requests to token events: the loop that plans steps, has them run and reads their results.

Deliberately does not know JAX, or how a step is computed.
"""
