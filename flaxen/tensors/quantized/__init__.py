"""Quantized checkpoints of Hugging Face: the tensors of each weight become one stored tensor."""
