"""Models of the Hugging Face hub: their names, and how they get to this machine and leave it.

Deliberately does not know the contents of files.
"""
