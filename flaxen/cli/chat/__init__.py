"""`flaxen chat`."""
