"""The server's routes that pause its engine, put it to sleep, or give it other weights."""
