"""Where arrays are on a mesh of devices: its shape, and the rules from logical axes to its axes."""
