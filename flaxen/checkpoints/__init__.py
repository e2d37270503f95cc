"""Checkpoints of training runs, and digests that identify the model they belong to."""
