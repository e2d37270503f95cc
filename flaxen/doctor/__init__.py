"""The probes of `flaxen doctor` of this machine and this installation, and what to fix."""
