"""Quantizes a model's weights with calibration, and writes a checkpoint of them."""
