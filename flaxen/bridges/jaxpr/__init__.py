"""A definition as JAX traces it: its operations found, and run by our kernels."""
