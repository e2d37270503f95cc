"""Reads GGUF files: the header, the quantized blocks, the model's configuration."""
