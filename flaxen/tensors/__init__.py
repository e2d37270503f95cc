"""Tensors in files: read in pieces, combined, quantized, packed; knows no models and no files."""
