"""Custom tools, whose input is a text: for the model they are functions with one argument.

Deliberately does not know: how a model is told of functions, or how it writes calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flaxen.server.schema import must_be

_INPUT = "input"
_SYNTAXES = ("lark", "regex")


def as_function(
    name: str, description: str | None, form: Mapping[str, Any] | None, where: str
) -> dict[str, Any]:
    """The function that a model is told of.

    A regular expression bounds its argument. A grammar of Lark is told to the model, but not
    followed: the input is a JSON string, in which it would stand in another form.

    Args:
      name: the tool's.
      description: the tool's; None for none.
      form: the tool's `format`; None for any text.
      where: the place of the format, for errors.

    Raises:
      ApiError: 400, the format is not one that there is.
    """
    syntax, definition = _grammar(form, where)
    argument: dict[str, Any] = {"type": "string"}
    texts = [] if description is None else [description]
    if syntax == "regex":
        argument["pattern"] = f"^(?:{definition})$"
    elif syntax == "lark":
        texts.append(f"The {_INPUT} follows this grammar:\n{definition}")
    schema = {
        "type": "object",
        "properties": {_INPUT: argument},
        "required": [_INPUT],
        "additionalProperties": False,
    }
    function: dict[str, Any] = {"name": name, "parameters": schema}
    if texts:
        function["description"] = "\n\n".join(texts)
    return function | ({"strict": True} if syntax == "regex" else {})


def _grammar(form: Mapping[str, Any] | None, where: str) -> tuple[str | None, str]:
    """(the grammar's syntax, its definition); None for the syntax where any text is allowed."""
    if form is None or form == {"type": "text"}:
        return None, ""
    grammar = form.get("grammar")
    if form.get("type") == "grammar" and isinstance(grammar, Mapping):
        syntax, definition = grammar.get("syntax"), grammar.get("definition")
        if syntax in _SYNTAXES and isinstance(definition, str):
            return syntax, definition
    raise must_be(
        where,
        "{'type': 'text'} or a grammar with its syntax ('lark' or 'regex') and its "
        "definition (a string)",
        form,
    )


def arguments_of(text: str) -> str:
    """The arguments of a function whose custom tool got this input, as JSON."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The input of a custom tool, from the arguments of its function, which are a JSON object; all
    of them where the model has written others.
    """
    given = json.loads(arguments)
    text = given.get(_INPUT) if isinstance(given, dict) and len(given) == 1 else None
    return text if isinstance(text, str) else arguments
