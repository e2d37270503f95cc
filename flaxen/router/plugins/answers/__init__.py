"""Answers of all APIs as values: whole, and as the events of a stream.

Knows: the forms of the answers as clients read them. Deliberately does not know: models, requests.
"""
