"""What a server keeps: its data directory, and the tables of its database."""
