"""A training run's checkpoints, and the digests that tell what they belong to."""
