"""The operations that models are made of: one folder an op, with its reference and its choices.

Deliberately does not know: models, engines, training.
"""
