"""The ways in which models write tool calls and reasoning, one in a file."""
