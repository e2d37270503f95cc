"""The operations of models: one folder for each op, with its reference and its implementations.

Deliberately does not know: models, engines, training.
"""
