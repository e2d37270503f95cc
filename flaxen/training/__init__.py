"""Training: losses, optimizers, the training step and loop, adapters, fine-tuning jobs."""
