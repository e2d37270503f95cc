"""Parameters from files: where a model is, what it is, and its tensors as a tree of arrays."""
