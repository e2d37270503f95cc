"""What `flaxen parity` compares: the log-probabilities of the trainer and of the server."""
