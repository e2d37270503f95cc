"""A conversation: its turns, its commands, its files, and where its answers come from.

Knows the engine and the HTTP API. Deliberately does not know the terminal, nor options.
"""
