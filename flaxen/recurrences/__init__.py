"""Ops that go through each sequence token by token, with a state that the sequence keeps.

Each is a folder as in `kernels/`. Deliberately does not know models, slots' owners, training.
"""
