"""POST /api/v1/routing/preview: how a chat would be routed, and why; no model answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.router.decisions.explaining import explain
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.requests.readers import read_request
from flaxen.router.selection.selected import NoModelError, Selected
from flaxen.router.signals.kinds import KINDS
from flaxen.routing.cascading import is_cascade
from flaxen.routing.decided import prepared_of
from flaxen.routing.deciding import Routed
from flaxen.routing.headers import path_headers, routed_headers
from flaxen.routing.service import RoutingService
from flaxen.routing.sessions import names_of
from flaxen.routing.upstream import Upstream, later
from flaxen.server.body import decode_body, read_body
from flaxen.server.errors import invalid

_CHAT = (
    *("messages", "tools", "functions", "tool_choice", "function_call", "response_format"),
    *("metadata", "max_tokens", "max_completion_tokens"),
)
_CONTEXT = ("session_id", "conversation_id", "sampling_seed")
_OPTIONS = ("include_explanation", "trace")
_SHOWN_AS = {kind.condition: kind.shown_as for kind in KINDS}
Json = dict[str, Any]


async def preview(service: RoutingService, local: Upstream, http: Request) -> Response:
    """Answers with the decision, the model, the headers that a client would be told, and with
    `options.include_explanation` or `trace` each decision node by node.

    Raises:
      ApiError: 400, the body is no such request; 403, nobody knows who asks; 429, too many are
          open; 504, it took too long.
    """
    limits = service.router.config.settings.services.api.routing_preview
    if service.num_previews >= limits.max_concurrency:
        told = f"{service.num_previews} previews are computed, the most that this router computes"
        raise later(429, told, "queue_full", "rate_limit_error")
    service.num_previews += 1
    try:
        async with asyncio.timeout(limits.request_timeout_seconds):
            body = await decode_body(await read_body(http, service.config), service.bodies)
            return JSONResponse(await _preview(service, http, body))
    except TimeoutError:
        told = f"the preview took longer than {limits.request_timeout_seconds} seconds"
        raise later(504, told, "timeout") from None
    finally:
        service.num_previews -= 1


async def _preview(service: RoutingService, http: Request, body: Json) -> Json:
    """The preview of a request's body."""
    given = {name: body[name] for name in _CHAT if name in body}
    _refuse_others("", body, (*_CHAT, "text", "model", "options", "preview_context"))
    options, context = body.get("options") or {}, body.get("preview_context") or {}
    if not isinstance(options, dict) or not isinstance(context, dict):
        raise invalid("options and preview_context must be objects")
    _refuse_others("options.", options, _OPTIONS)
    _refuse_others("preview_context.", context, _CONTEXT)
    text = body.get("text")
    if (text is None) == ("messages" not in given):
        raise invalid("give a text or messages, one of them")
    if text is not None:
        given["messages"] = [{"role": "user", "content": text}]
    router = service.router
    names, shown = router.config.entrypoints, router.config.settings.router.learning.protection
    given["model"] = body.get("model") or next(iter(names))
    decider = router.decider_of(given["model"])
    if decider is None:
        told = f"model must be a name that is decided ({', '.join(names)}), got {given['model']!r}"
        raise invalid(told, "model")
    try:
        request = read_request("chat", given, http.headers)
    except ValueError as error:
        raise invalid(f"the request can't be classified: {error}") from None
    routed = await decider.decide(request, service.compute)
    headers = dict(http.headers)
    for name in ("session", "conversation"):
        if value := context.get(f"{name}_id"):
            headers[getattr(shown.identity.headers, name).lower()] = str(value)
    conversation = names_of(router.config, routed, given, headers)
    routed = replace(routed, session=service.sessions.of(conversation, routed, router))
    seed = str(context.get("sampling_seed", http.state.request_id))
    explains = any(options.get(name) for name in _OPTIONS)
    return _told(service, routed, given, seed, explains)


def _refuse_others(where: str, given: Json, known: Iterable[str]) -> None:
    """Raises where a name is not known, so that nobody believes that it counted."""
    if others := sorted(given.keys() - set(known)):
        raise invalid(f"a preview has no {where}{others[0]}: it has {', '.join(known)}", others[0])


def _told(service: RoutingService, routed: Routed, body: Json, seed: str, explains: bool) -> Json:
    decision, found = routed.decision, routed.found
    prepared = prepared_of(routed, body, seed)
    if prepared.model:
        routed = routed.rerouted(prepared.model)
    selected, path, status, reason = None, "upstream", "selected", ""
    if (error := routed.error) is not None:
        path, status, reason = "error", "failed", error.message
    elif (reply := prepared.reply) is not None:
        path = "fast_response" if "x-vsr-fast-response" in reply.headers else "blocked"
        status, reason = "not_required", f"it is answered at once, with status {reply.status}"
    else:
        try:
            selected = routed.select(service.facts(routed, seed))
            status = "execution_required" if is_cascade(selected) else "selected"
            status = "fallback" if selected.fallback else status
        except NoModelError as no_model:
            path, status, reason = "error", "unavailable", str(no_model)
    result = None
    if decision is not None:
        result = {
            "decision_name": decision.name,
            "confidence": routed.decided.confidence,
            "algorithm": decision.algorithm.type if decision.algorithm else "static",
            "plugins": [plugin.type for plugin in decision.plugins],
            "used_signals": _by_kind(found),
            "matched_signals": _by_kind(key for key, each in found.items() if each.matched),
            "unmatched_signals": _by_kind(k for k, each in found.items() if each.matched is False),
        }
    headers = path_headers(path) + routed_headers(routed, selected, is_debug=True)
    return {
        "original_text": routed.request.current_user,
        "requested_model": body["model"],
        "recipe": routed.recipe.name,
        "routing_decision": routed.name,
        "decision_result": result,
        **_selection(selected, reason),
        "selection_status": status,
        "notes": prepared.notes,
        "headers": dict(headers),
        "signal_confidences": {
            str(k): each.confidence for k, each in found.items() if each.matched
        },
        "signal_values": {str(k): e.value for k, e in found.items() if e.value is not None},
        "signal_errors": {str(k): each.reason for k, each in found.items() if each.matched is None},
        "unread_content": routed.request.unread,
        "metrics": {"decide_ms": routed.decide_s * 1e3},
        "eval_trace": [asdict(each) for each in explain(routed.evaluation)] if explains else [],
    }


def _selection(selected: Selected | None, reason: str) -> Json:
    if selected is None:
        return {"selected_model": "", "selection_method": "", "selection_reason": reason} | {
            "recommended_models": []
        }
    return {
        "selected_model": selected.model,
        "selection_method": selected.method,
        "selection_reason": selected.reason,
        "recommended_models": [candidate.model for candidate in selected.order],
    }


def _by_kind(keys: Iterable[SignalKey]) -> dict[str, list[str]]:
    """The names of signals by their kinds, as probes call these."""
    kinds: dict[str, list[str]] = {}
    for key in sorted(keys):
        kinds.setdefault(_SHOWN_AS[key.kind], []).append(key.name)
    return kinds
