"""From the plan of a step to its samples: the compiled step, its inputs, its state on the device.

Deliberately does not know how a step is planned, or what becomes of its samples.
"""
