"""One file for each engine: the process that runs it. Run with `python -m`, by its own Python."""
