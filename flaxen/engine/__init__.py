"""Requests to token events: scheduler, pages, the compiled step, sampling, and their loop."""
