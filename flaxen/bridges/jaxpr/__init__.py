"""Finds the operations in a traced definition (its jaxpr) and runs them with our kernels."""
