"""Code that calls a server, to be copied. Deliberately does not know HTML."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

_KEY = "FLAXEN_API_KEY"  # the variable in which a client of ours looks for the key, too
_QUESTION = "What is JAX?"
_PROMPT = "JAX is"
# By what a model pools: the route that is shown, and its body.
_POOLED: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("/v1/embeddings", {"input": _QUESTION}),
    "classify": ("/classify", {"input": _QUESTION}),
    "score": ("/score", {"text_1": _QUESTION, "text_2": _PROMPT}),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server that code calls."""

    url: str
    model: str
    chats: bool  # whether the model has a chat template
    has_key: bool
    pools: str = ""  # embed, classify or score; "": the model generates


def curl(target: Target) -> str:
    """A command that asks for an answer."""
    body: dict[str, Any] = {"model": target.model}
    if target.pools:
        path, more = _POOLED[target.pools]
        body |= more
    elif target.chats:
        path, more = "/v1/chat/completions", {"messages": [{"role": "user", "content": _QUESTION}]}
        body |= more
    else:
        path = "/v1/completions"
        body |= {"prompt": _PROMPT, "max_tokens": 64}
    lines = [f"curl {target.url}{path}", "  -H 'Content-Type: application/json'"]
    if target.has_key:
        lines.append(f'  -H "Authorization: Bearer ${_KEY}"')
    lines.append(f"  -d {shlex.quote(json.dumps(body))}")
    return " \\\n".join(lines)


def python(target: Target) -> str:
    """A program that prints an answer while it is written, or a vector; "" where OpenAI's client
    has no method."""
    if target.pools not in ("", "embed"):
        return ""
    model = json.dumps(target.model)
    key = f'os.environ["{_KEY}"]' if target.has_key else '"none"'
    lines = ["import os", ""] if target.has_key else []
    lines += [
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url="{target.url}/v1", api_key={key})',
    ]
    if target.pools:
        lines += [
            f'answer = client.embeddings.create(model={model}, input="{_QUESTION}")',
            "print(answer.data[0].embedding)",
        ]
    elif target.chats:
        lines += [
            "stream = client.chat.completions.create(",
            f"    model={model},",
            f'    messages=[{{"role": "user", "content": "{_QUESTION}"}}],',
            "    stream=True,",
            ")",
            "for chunk in stream:",
            '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
        ]
    else:
        lines += [
            "stream = client.completions.create(",
            f'    model={model}, prompt="{_PROMPT}", max_tokens=64, stream=True',
            ")",
            "for chunk in stream:",
            '    print(chunk.choices[0].text, end="", flush=True)',
        ]
    return "\n".join(lines)
