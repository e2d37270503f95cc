"""Selection: which of a decision's models answers a request, and why (decision 0344).

Knows: the candidates as the configuration has them, the parsed request, and a snapshot of what is
known of models at that moment. Deliberately does not know: the time, chance, and how models are
called.
"""
