"""The parts that a decoder's layers are made of, each a value that knows its own parameters."""
