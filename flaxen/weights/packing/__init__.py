"""Weights in the form that the kernels read: quantized, packed, in aligned memory."""
