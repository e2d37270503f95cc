"""The cache: groups of layers, pools of pages, shared prefixes. Deliberately does not know JAX."""
