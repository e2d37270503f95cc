"""`flaxen doctor`: what this machine and this installation have, and what to fix."""
