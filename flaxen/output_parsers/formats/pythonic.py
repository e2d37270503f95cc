"""Calls as a list of Python's calls.

    [get_weather(city="Paris"), get_time(zone='CET', precise=True)]

It is the whole answer in Llama 3.2 and 4 (from their model cards; Llama 4 may put it between
`<|python_start|>` and `<|python_end|>`), or stands between `<|tool_call_start|>` and
`<|tool_call_end|>` in LFM2 (from its model card; some of its chat templates show calls as JSON,
which is read too). Arguments have names, and their values are literals of Python, or JSON's true,
false and null. Without a marker only the names of the request's tools count. Deliberately does not
know schemas.
"""

from __future__ import annotations

import ast
from typing import Any

from flaxen.output_parsers.incoming import Incoming, Reading
from flaxen.output_parsers.json_text import Call, dump, load, read_calls
from flaxen.output_parsers.tools import Tools

BEGINS, ENDS = ("<|python_start|>", "<|tool_call_start|>"), ("<|python_end|>", "<|tool_call_end|>")
MARKERS = (*BEGINS, *ENDS)
_WORDS = {"true": True, "false": False, "null": None}


def read(incoming: Incoming, tools: Tools) -> Reading[None]:
    """Reads an answer that is a list of calls, or content with lists between the markers."""
    incoming.begin()
    yield from incoming.expect(*BEGINS)
    while True:
        text = yield from incoming.value(is_python=True)
        calls = read_calls(load(text)) or _read_list(text)
        if calls and all(name in tools for name, _ in calls):
            incoming.calls(calls)
            yield from incoming.expect(*ENDS)
        else:
            incoming.as_content()
        if (yield from incoming.content_until(*BEGINS)) is None:
            return


def _read_list(text: str | None) -> list[Call] | None:
    if text is None:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else []
        return [(ast.unparse(call.func), dump(_arguments(call))) for call in map(_call, elements)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None  # the last two: it is nested too deeply for Python's parser


def _call(element: ast.expr) -> ast.Call:
    if not isinstance(element, ast.Call) or element.args:
        raise ValueError("it is no call, or an argument has no name")
    return element


def _arguments(call: ast.Call) -> dict[str, Any]:
    arguments = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("the names of **arguments are not known")
        arguments[keyword.arg] = _value(keyword.value)
    return arguments


def _value(node: ast.expr) -> Any:
    """The value of a literal that JSON has too."""
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) if key else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key of an object is a string")
        return dict(zip(keys, map(_value, node.values), strict=True))
    value = ast.literal_eval(node)
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"JSON has no {type(value).__name__}")
    return value
