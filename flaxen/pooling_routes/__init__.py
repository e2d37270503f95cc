"""The routes that answer with vectors and scores: embeddings, classification, scores, reranking.

Deliberately does not know: sampling, streams of text, how vectors are computed.
"""
