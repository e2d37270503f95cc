"""GGUF files: their header, their blocks, and the model in them."""
