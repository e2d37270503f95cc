"""`/v1/fine_tuning`: the routes, the jobs, and the fine-tuned models."""
