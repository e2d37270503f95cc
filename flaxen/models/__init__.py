"""The model definitions: configurations, layers, the decoder, and the families that use it."""
