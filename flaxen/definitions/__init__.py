"""Models that code defines, and opening a model by its name, whatever defines it."""
