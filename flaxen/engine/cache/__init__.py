"""The KV cache's pages, and the prefixes that sequences share. Deliberately does not know JAX."""
