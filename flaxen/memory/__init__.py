"""How much memory an engine takes: its KV cache, its longest sequence, and what steps need.

Knows: the memory that a machine or device has. Deliberately does not know: options, how requests
use the memory.
"""
