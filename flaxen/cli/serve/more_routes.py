"""The routes of the rooms above the server, which `flaxen serve` adds to the server's own."""

from __future__ import annotations

from flaxen.pooling_routes import routes as pooling
from flaxen.server.app import Routes
from flaxen.token_routes import routes as tokens

MORE_ROUTES: Routes = {**pooling.ROUTES, **tokens.ROUTES}
