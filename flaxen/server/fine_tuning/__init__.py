"""`/v1/fine_tuning`: the routes, the jobs, and the models that come of them."""
