"""The pages for people: a chat, what the server does, how to call it, and the reference."""
