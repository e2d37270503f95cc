"""Pages of the KV cache outside of it: in the host's memory, and on disk (decision 0363).

Knows: bytes of pages by their keys, files, threads. Deliberately does not know: tokens, sequences,
devices, JAX.
"""
