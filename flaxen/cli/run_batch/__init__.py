"""`flaxen run-batch`: a command with several files."""
