"""Models: the interface, the decoder and its configuration, the families, adapters, attention."""
