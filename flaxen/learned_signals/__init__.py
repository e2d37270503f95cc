"""The signals of the router that a model finds: similarities and heads on one encoder, which this
engine runs.

Deliberately does not know: HTTP, decisions, argv.
"""
