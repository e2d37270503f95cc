"""What a decision does to its requests and answers: one file a plugin, with its settings (whose
fields are the keys of a configuration) and its function.

Deliberately does not know: clocks, networks, which decision it is for. `preparing.py` joins them.
"""
