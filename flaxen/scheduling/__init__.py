"""From waiting sequences to the plan of the next step: which tokens, in which pages and slots.

`executor` is the interface of what runs a plan. Deliberately does not know JAX, or what is
computed.
"""
