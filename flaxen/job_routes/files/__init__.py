"""`/v1/files`: the routes, and the files on disk."""
