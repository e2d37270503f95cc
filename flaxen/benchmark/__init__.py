"""Measures an engine on fixed workloads, and the limits of the machine beside it."""
