"""The process that runs a chat template: reads requests on stdin, answers on stdout.

`chat_process` starts it as a script that imports nothing of flaxen, so it starts fast and holds no
  secrets. It limits itself, since its parent may die first: - memory: the kernel refuses more
  address space (Linux), which raises MemoryError here; - time: the kernel kills this process by
  SIGALRM, also inside a long C call; - output: counted while the template runs.
After the parent has ended, nobody reads a reply or a message: this process ends silently.

Deliberately does not know: tokenizers, what messages are, when a request is too late.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

_HEADER = struct.Struct(">Q")  # bytes of the JSON that follows
_MAX_DETAIL = 2000  # the most characters of an error that are sent


class _Generation(jinja2.ext.Extension):
    """Implements `{% generation %}`, which marks the model's text: prints a variable on each side.

    Only training sets the two variables (chat.GENERATION_BEGINS); unset variables print nothing.
    """

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as no ClassVar)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begins, ends = (
            jinja2.nodes.Output([jinja2.nodes.Name(f"flaxen_generation_{name}", "load")])
            for name in ("begins", "ends")
        )
        return jinja2.nodes.Scope([begins, *body, ends], lineno=line)


class _RaisedError(Exception):
    """The template called raise_exception."""


def _raise_exception(message: object) -> NoReturn:
    raise _RaisedError(str(message))


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes: Jinja's own filter escapes <, > and &, as in no training data."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _compile(source: str) -> jinja2.Template:
    """Compiles with the conventions of transformers' apply_chat_template."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _render(template: jinja2.Template, variables: dict[str, Any], max_chars: int) -> dict[str, str]:
    chunks, num_chars = [], 0
    for chunk in template.generate(variables):
        num_chars += len(chunk)
        if num_chars > max_chars:
            return {"error": "output", "detail": ""}
        chunks.append(chunk)
    return {"text": "".join(chunks)}


def _answer(request: dict[str, Any], template: jinja2.Template | None) -> Any:
    """Handles one request. Returns the compiled template, or a dict to send as the reply."""
    try:
        if template is None:
            return _compile(request["source"])
        return _render(template, request["variables"], request["max_chars"])
    except _RaisedError as exc:
        return {"error": "raised", "detail": str(exc)[:_MAX_DETAIL]}
    except jinja2.TemplateSyntaxError as exc:
        return {"error": "syntax", "detail": f"line {exc.lineno}: {exc.message}"}
    except MemoryError:
        return {"error": "memory", "detail": ""}
    except Exception as exc:  # a template may raise anything: the parent reports it
        return {"error": "failed", "detail": f"{type(exc).__name__}: {exc}"[:_MAX_DETAIL]}


def _limit_memory(max_bytes: int) -> None:
    """Limits this process to `max_bytes` more than it has now. Only Linux enforces such a limit."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + max_bytes, used + max_bytes))


def _send(stream: BinaryIO, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    stream.write(_HEADER.pack(len(body)) + body)
    stream.flush()


def _receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Reads one request; None if the parent has ended, perhaps in the middle of one."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    body = stream.read(size)
    if len(body) < size:
        return None
    request: dict[str, Any] = json.loads(body)
    return request


def main() -> None:
    """Argument: JSON with alarm_s, whole seconds for one request, and max_bytes of memory."""
    limits = json.loads(sys.argv[1])
    _limit_memory(limits["max_bytes"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action is to kill
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _send(replies, {"ready": True})
    template: jinja2.Template | None = None
    while (request := _receive(requests)) is not None:
        signal.alarm(limits["alarm_s"])
        reply = _answer(request, template)
        if isinstance(reply, jinja2.Template):
            template, reply = reply, {"text": ""}
        signal.alarm(0)
        _send(replies, reply)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent ended before it read the answer
        os._exit(0)  # an ordinary exit would flush stdout, and fail once more
