"""The routes whose clients speak in token ids: those of a request, and tokens in, tokens out.

Deliberately does not know how texts become tokens, or tokens texts.
"""
