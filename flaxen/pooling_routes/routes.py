"""The table of these routes, for `server.app.create_app`."""

from __future__ import annotations

from flaxen.pooling_routes import cohere, embeddings, scores
from flaxen.server.app import Routes

ROUTES: Routes = {
    ("POST", "/v1/embeddings"): embeddings.embed,
    ("POST", "/v2/embed"): cohere.embed,
    ("POST", "/pooling"): embeddings.pool,
    ("POST", "/classify"): embeddings.classify,
    ("POST", "/v1/score"): scores.score,
    ("POST", "/score"): scores.score,
    ("POST", "/v1/rerank"): scores.rerank,
    ("POST", "/v2/rerank"): scores.rerank,
    ("POST", "/rerank"): scores.rerank,
}
