"""Models: the interface, the decoder and its configuration, adapters, attention."""
