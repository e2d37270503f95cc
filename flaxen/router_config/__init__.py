"""From a file of YAML to a checked RouterConfig (decision 0341).

Knows: the public reference's file format, the subset of it that is supported, and why the rest is
refused. Deliberately does not know: the environment (the caller passes it), signals' functions, how
models are chosen and called.
"""
