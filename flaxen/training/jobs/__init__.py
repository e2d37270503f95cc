"""Fine-tuning jobs: planning, running, validating, stopping and resuming them."""
