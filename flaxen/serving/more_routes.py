"""The routes of the rooms above the server, which are added to the server's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxen.llama_cpp_routes.routes import ROUTES as LLAMA_CPP
from flaxen.messages_routes import routes as messages
from flaxen.pooling_routes import routes as pooling
from flaxen.responses_routes import routes as responses_routes
from flaxen.responses_routes.responses import Responses
from flaxen.server.app import Routes
from flaxen.token_routes import routes as tokens

if TYPE_CHECKING:
    from flaxen.job_routes.stores import Stores

_OF_ANY_SERVER: Routes = {**pooling.ROUTES, **tokens.ROUTES, **messages.ROUTES, **LLAMA_CPP}


def open_responses(stores: Stores | None) -> Responses:
    """The responses of a server: in its database, or in memory where it has none."""
    if stores is None:
        return Responses()
    from flaxen.responses_routes.database import DatabaseStore

    chats = DatabaseStore(stores.database, "chatcmpl-")
    return Responses(store=DatabaseStore(stores.database), chats=chats)


def more_routes(responses: Responses) -> Routes:
    """The routes of a server of one model."""
    return {**_OF_ANY_SERVER, **responses_routes.all_routes(responses)}


def model_routes(responses: Responses) -> Routes:
    """The routes of each model of a server of several."""
    return {**_OF_ANY_SERVER, **responses_routes.model_routes(responses)}
