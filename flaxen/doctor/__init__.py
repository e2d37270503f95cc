"""What this machine and this installation have, and what to fix: the probes of `flaxen doctor`."""
