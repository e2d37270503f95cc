"""`flaxen serve`."""
