"""`flaxen pull`, `list` and `rm`: the models on this machine."""
