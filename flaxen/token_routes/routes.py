"""The table of these routes, for `server.app.create_app`."""

from __future__ import annotations

from flaxen.server.app import Routes
from flaxen.token_routes import derender, generate, render, scoring

ROUTES: Routes = {
    ("POST", "/v1/completions/render"): render.completions,
    ("POST", "/v1/chat/completions/render"): render.chat,
    ("POST", "/v1/completions/derender"): derender.completions,
    ("POST", "/v1/chat/completions/derender"): derender.chat,
    ("POST", "/inference/v1/generate"): generate.create,
    ("POST", "/generative_scoring"): scoring.create,
}
