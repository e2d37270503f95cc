"""The kinds of signals: one file for each, with its rule and the function that finds it.

Knows: a RoutedRequest and one rule's fields. Deliberately does not know: decisions, and where the
rules were read from.
"""
