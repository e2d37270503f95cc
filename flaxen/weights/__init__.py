"""Loads models from files: finds them, reads their configuration, and loads their parameters."""
