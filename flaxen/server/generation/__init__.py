"""The generation routes (completions and chat): from a request body to its answer."""
