"""`flaxen route preview` and `explain`: how one request is decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flaxen.cli.groups import option
from flaxen.cli.route.asked import FileArgument, RequestOptions, decide
from flaxen.cli.route.learned import LearnedOptions

if TYPE_CHECKING:
    from flaxen.router.decisions.explaining import ExplainedNode


def preview(
    file: FileArgument,
    options: RequestOptions,
    learned: LearnedOptions,
    shows_body: bool = option(
        False, "--body", help="Print the body that the model's server gets, too."
    ),
) -> None:
    """Show how a request is decided: decision, model, headers.

    Signals that need a model are unknown, unless --heads or --encoder says what finds them. Exits
    with 1 if the request would be refused.
    """
    from flaxen.router.plugins.preparing import Asked, prepare
    from flaxen.router.reasoning import with_reasoning

    body, request, recipe, outcome = decide(file, options, learned)
    name = outcome.decision
    plugins = recipe.decisions[name].plugins if name and not outcome.decided.fails else ()
    found = {(key.kind, key.name): each for key, each in outcome.found.items()}
    prepared = prepare(
        body,
        options.api,
        [plugin.configuration for plugin in plugins],
        Asked(request_id="preview", now=0, found=found),
    )
    reply = prepared.reply
    model = "" if reply else prepared.model or outcome.model
    for what, text in (
        ("reason", outcome.reason),
        ("unknown", ", ".join(map(str, outcome.decided.unknown))),
        ("not read", ", ".join(request.unread)),
        ("plugins", ", ".join(prepared.notes)),
        ("answered at once", f"status {reply.status}" if reply else ""),
        ("x-vsr-selected-recipe", recipe.name),
        ("x-vsr-selected-decision", name),
        ("x-vsr-selected-confidence", f"{outcome.decided.confidence:.4f}" if name else ""),
        ("x-vsr-selected-model", model),
    ):
        if text:
            print(f"{what}: {text}")
    if shows_body and not reply:
        reasons = None if prepared.model else outcome.reasons
        sent = with_reasoning(prepared.body, options.api, reasons)
        print(json.dumps({**sent, "model": model}, ensure_ascii=False, indent=2))
    if outcome.decided.fails or (reply and reply.status >= 400):
        raise SystemExit(1)


def explain(file: FileArgument, options: RequestOptions, learned: LearnedOptions) -> None:
    """Explain how a request is decided, node by node.

    Signals that need a model are unknown, unless --heads or --encoder says what finds them.
    """
    from flaxen.router.decisions.explaining import explain as explain_all

    _, _, recipe, outcome = decide(file, options, learned)
    rules = {each.name: each for each in recipe.rules}
    for each in explain_all(outcome.deciding):
        tier = f", tier {rules[each.name].tier}" if rules[each.name].tier else ""
        won = ", wins" if each.won else ""
        print(f"{each.name} (priority {rules[each.name].priority}{tier}{won})")
        lines = ["  matches every request"] if each.tree is None else _lines(each.tree, "  ")
        print("\n".join(lines))
    print(f"model: {outcome.model or 'none'} ({outcome.reason})")


def _lines(node: ExplainedNode, indent: str) -> Iterator[str]:
    """A node and those below it, each a line: value, name, confidence and reason."""
    confidence = "" if node.confidence is None else f" {node.confidence:.4f}"
    reason = f": {node.reason}" if node.reason else ""
    yield f"{indent}{node.name} = {node.value}{confidence}{reason}"
    for child in node.children:
        yield from _lines(child, f"{indent}  ")
