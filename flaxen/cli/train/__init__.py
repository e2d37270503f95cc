"""`flaxen train`."""
