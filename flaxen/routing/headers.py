"""The headers of answers: the public reference's, of schema 2, and what it leaves unsaid."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from urllib.parse import quote

from flaxen.router.selection.selected import Selected
from flaxen.router.signals.kinds import KINDS
from flaxen.routing.deciding import Routed
from flaxen.routing.upstream import Headers

_SAFE = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"  # beside letters and digits; others are written as %XX
_SHOWN_AS = {kind.condition: kind.shown_as.replace("_", "-") for kind in KINDS}


def path_headers(path: str) -> Headers:
    """Those of every answer: how it came about (upstream, error, fast_response, blocked)."""
    return (("x-vsr-schema-version", "2"), ("x-vsr-response-path", path))


def routed_headers(
    routed: Routed,
    selected: Selected | None,
    failed: Collection[str] = (),
    asked: Collection[str] = (),
    *,
    is_debug: bool,
) -> Headers:
    """Those of a request that was decided.

    `x-vsr-response-warnings` says what was not as the configuration wishes: no_decision (the
    default model answers), unknown_signals, unread_content (parts that no signal can read),
    selection_fallback, failover. The first three mean that the request was not fully classified;
    `x-vsr-unknown-signals` and `x-vsr-unread-content` name what is behind them.

    Args:
      selected: what answers; None if no model is asked.
      failed: the models that failed the request before.
      asked: those of a cascade that were not sure enough, by the candidates' names.
      is_debug: whether the signals that matched are told.
    """
    return tuple(
        (f"x-vsr-{name}", quote(value, safe=_SAFE))
        for name, value in _headers(routed, selected, failed, asked, is_debug)
        if value
    )


def _headers(
    routed: Routed,
    selected: Selected | None,
    failed: Collection[str],
    asked: Collection[str],
    is_debug: bool,
) -> Iterator[tuple[str, str]]:
    yield "selected-recipe", routed.recipe.name
    if routed.decision is not None:
        yield "selected-decision", routed.decision.name
        yield "selected-confidence", f"{routed.decided.confidence:.4f}"
    warnings = routed.unclassified
    if selected is not None:
        yield "selected-algorithm", selected.method
        yield "selected-model", selected.model
        used = (*asked, selected.candidate.name) if asked else ()
        yield "looper-models-used", ",".join(used)
        if is_debug and (reasons := selected.candidate.reasons) is not None:
            yield "selected-reasoning", "on" if reasons.is_on else "off"
        warnings["selection_fallback"] = bool(selected.fallback)
        warnings["failover"] = bool(failed)
    yield "response-warnings", ",".join(name for name, is_so in warnings.items() if is_so)
    unknown = sorted(str(key) for key, found in routed.found.items() if found.matched is None)
    yield "unknown-signals", ",".join(unknown)
    yield "unread-content", ",".join(routed.request.unread)
    matched: dict[str, list[str]] = {}
    for key, found in sorted(routed.found.items()) if is_debug else ():
        if found.matched:
            matched.setdefault(_SHOWN_AS[key.kind], []).append(key.name)
    for kind, names in matched.items():
        yield f"matched-{kind}", ",".join(names)
