"""From what signals found to the one decision that wins, over three values (decision 0340).

Knows: trees of conditions, their bounds, ranks, projections. Deliberately does not know: how a
signal is computed, and what a decision leads to (models, plugins).
"""
