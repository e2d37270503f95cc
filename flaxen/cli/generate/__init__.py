"""`flaxen generate`."""
