"""Models in Hugging Face directories that run through PyTorch's bridge."""
