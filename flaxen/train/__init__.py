"""Batches to better parameters: losses, optimizers, the step, adapters."""
