"""Anthropic's API of messages, over the parts of the server's chats (decision 0326).

A body becomes a chat's body, so that prompts, tools, limits and sampling are a chat's; the answer
is written in blocks. Deliberately does not know: how prompts are rendered, or models write calls.
"""
