"""llama.cpp's own routes, for the clients that were made for it (decision 0330).

Deliberately does not know: slots, which are places of its cache that clients may choose.
"""
