"""The server's routes of OpenAI's Responses API: /v1/responses and what is below it, and of
the chats that are kept.

They stand on the parts of the chat route. Deliberately does not know: templates, formats of models,
engines.
"""
