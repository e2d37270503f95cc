"""The table of these routes, for `server.app.create_app`."""

from __future__ import annotations

from flaxen.llama_cpp_routes import completion, infill, telling
from flaxen.server.app import Routes

ROUTES: Routes = {
    ("POST", "/completion"): completion.create,
    ("POST", "/infill"): infill.create,
    ("GET", "/props"): telling.props,
    ("POST", "/apply-template"): telling.apply_template,
    ("POST", "/chat/completions/input_tokens"): telling.input_tokens,
    ("POST", "/v1/chat/completions/input_tokens"): telling.input_tokens,
}
