"""Prepares a request for its model: applies the plugins of the decision that it is for.

Deliberately does not know: which model is selected, and how a request is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.fast_response import FastResponse, fast_reply
from flaxen.router.plugins.guards import Action, Jailbreak, Pii, guarded
from flaxen.router.plugins.header_mutation import HeaderMutation
from flaxen.router.plugins.reply import Json, PluginError, Reply, error_reply
from flaxen.router.plugins.request_params import RequestParams, with_params
from flaxen.router.plugins.shadow import ShadowDispatch
from flaxen.router.plugins.system_prompt import SystemPrompt, has_system_prompt, with_system_prompt
from flaxen.router.plugins.tools import Tools, with_tools
from flaxen.router.signals.found import Found


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What plugins read beside the body.

    Attributes:
      request_id: of the request; ids of answers are made of it.
      now: the time in seconds since 1970.
      counts: whether only the prompt's tokens are asked for, so that no message is an answer.
      found: what signals found, by the condition's type and name; at least `signals_of`.
    """

    request_id: str
    now: float
    counts: bool = False
    found: Mapping[tuple[str, str], Found] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request after its decision's plugins.

    Attributes:
      body: for the model's server; its `model` is still the client's.
      reply: what is answered at once, without a model; None if a model is asked.
      model: the model that must answer whatever is selected (reroute); "" where one is selected.
      headers: changes the headers for the model's server.
      cache: the settings of the cache, if the decision has one.
      shadow: what a copy of the request goes to, if one does (`shadow_body`).
      notes: what plugins did, or could not do to such a request, for explanations.
    """

    body: Json
    reply: Reply | None = None
    model: str = ""
    headers: HeaderMutation = field(default_factory=HeaderMutation)
    cache: ResponseCache | None = None
    shadow: ShadowDispatch | None = None
    notes: tuple[str, ...] = ()


def signals_of(plugins: Iterable[object]) -> tuple[tuple[str, str], ...]:
    """The signals that plugins act on, by the condition's type and name: they must be computed
    once the decision is known, if they are not yet."""
    return tuple(each.signal for each in plugins if isinstance(each, Jailbreak | Pii))


def prepare(body: Json, api: str, plugins: Iterable[object], asked: Asked) -> Prepared:
    """Applies plugins to a request, in an order that does not depend on theirs: guards, a fixed
    answer, tools, the system prompt, parameters, headers.

    Args:
      body: of the client's request, which is not changed.
      api: one of requests.readers.READERS.
      plugins: the settings of the decision's plugins, at most one of each class. Others than this
        room's are left alone.
    """
    by_type: dict[type, Any] = {type(each): each for each in plugins}
    try:
        return _prepare(body, api, by_type, asked)
    except PluginError as error:
        return Prepared(body=body, reply=error_reply(api, 400, str(error), "plugin"))


def _prepare(body: Json, api: str, plugins: dict[type, Any], asked: Asked) -> Prepared:
    notes, model = [], ""
    for kind in (Jailbreak, Pii):
        if (guard := plugins.get(kind)) is None:
            continue
        action: Action = guarded(body, api, guard, asked.found.get(guard.signal))
        notes += [f"{guard.signal[0]}: {action.note}"] if action.note else []
        if action.reply is not None:
            return Prepared(body=body, reply=action.reply, notes=tuple(notes))
        body, model = action.body, model or action.model
    if (fast := plugins.get(FastResponse)) is not None and not asked.counts:
        reply = fast_reply(body, api, fast, asked.request_id, asked.now)
        return Prepared(body=body, reply=reply, notes=(*notes, "fast_response"))
    if (tools := plugins.get(Tools)) is not None and tools.enabled:
        body = _noted(with_tools(body, tools), body, "tools", notes)
    if (prompt := plugins.get(SystemPrompt)) is not None and prompt.enabled:
        if has_system_prompt(body, api):
            body = _noted(with_system_prompt(body, api, prompt), body, "system_prompt", notes)
        else:
            notes.append("system_prompt: plain texts to embed have none")
    if (params := plugins.get(RequestParams)) is not None:
        body = _noted(with_params(body, api, params), body, "request_params", notes)
    cache, shadow = plugins.get(ResponseCache), plugins.get(ShadowDispatch)
    takes = shadow is not None and not asked.counts and shadow.takes(asked.request_id)
    return Prepared(
        body=body,
        model=model,
        headers=plugins.get(HeaderMutation, HeaderMutation()),
        cache=cache if cache is not None and cache.enabled else None,
        shadow=shadow if takes else None,
        notes=tuple(notes),
    )


def _noted(body: Json, before: Json, name: str, notes: list[str]) -> Json:
    """The body after a plugin; notes the plugin if it changed something."""
    if body != before:
        notes.append(name)
    return body
