"""The ops of attention, one folder each, as in `kernels`: over pages, causal, in both directions.

Deliberately does not know models, which positions a cache keeps, training.
"""
