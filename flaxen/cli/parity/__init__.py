"""`flaxen parity`."""
