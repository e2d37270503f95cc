"""Packs weights for the kernels: quantization, layout, aligned memory."""
