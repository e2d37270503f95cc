"""What a generated text is made of: reasoning, content and tool calls, told apart as it arrives.

Deliberately does not know: HTTP, chat templates' rendering, tokens, JAX.
"""
