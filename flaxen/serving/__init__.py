"""From plain values to a running server, and what it says when it is ready."""
