"""Models by their names: on this machine, and on the Hugging Face hub, from where they are pulled.

Knows which files of a directory are a model's. Deliberately does not know their contents.
"""
