"""A mesh of devices, its shape, and the rules that lay arrays over it by their logical axes."""
