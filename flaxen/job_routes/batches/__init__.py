"""Batches: files of requests that are answered beside others, and their results (decision 0327)."""
