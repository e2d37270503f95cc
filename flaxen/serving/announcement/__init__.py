"""What a server says when it is ready: facts, each a line for a reader and fields for a program."""
