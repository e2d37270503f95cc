"""The table of these routes, for `server.app.create_app`."""

from __future__ import annotations

from flaxen.messages_routes import count_tokens, create
from flaxen.server.app import Routes

ROUTES: Routes = {
    ("POST", "/v1/messages"): create.create,
    ("POST", "/v1/messages/count_tokens"): count_tokens.count_tokens,
}
