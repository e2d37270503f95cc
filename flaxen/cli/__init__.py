"""The only composition root: reads arguments, environment and files; builds and wires the parts."""
