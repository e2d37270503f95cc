"""An application whose model says one text, and ways to ask it for responses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import openai
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import all_routes
from flaxen.responses_routes.stored import MemoryStore, ResponseStore
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.server.run import listen, serve
from tests.server.clients import post
from tests.server.fakes import END, FakeEngine, byte_tokenizer

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
# Shows all that the template gets of a message, and the tools' names; its markers are qwen3's.
TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}({{ m.reasoning_content }})"
    "{% endif %}{% for part in ([m.content] if m.content is string else m.content) %}"
    "{{ part if part is string else part.text }}{% endfor %}{% for c in m.tool_calls or [] %}"
    "<{{ c.function.name }} {{ c.function.arguments.a }}>{% endfor %}{% endfor %}"
    "{{ reasoning_effort }}{# <think></think><tool_call> #}"
)
SAYS = (
    "<think>\nThey ask.\n</think>\n\nI look é.\n"
    '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>'
)
_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Server:
    """An application and its parts."""

    def __init__(
        self,
        says: str = SAYS,
        *,
        store: ResponseStore | None = None,
        step_s: float = 0.0,
        template: str = TEMPLATE,
        **engine: Any,
    ) -> None:
        self.engine = FakeEngine(
            says=lambda request, index: [*says.encode(), END], step_s=step_s, **engine
        )
        self.responses = Responses(store=store or MemoryStore())
        self.app = create_app(
            self.engine,
            byte_tokenizer(template),
            ServerConfig(),
            more_routes=all_routes(self.responses),
        )

    def create(self, **body: Any) -> dict[str, Any]:
        """A whole response, which the official client's types take."""
        answer = post(self.app, PATH, {"input": "Hi", **body})
        assert answer.status_code == 200, answer.text
        response: dict[str, Any] = answer.json()
        Response.model_validate(response)
        return response

    def error(self, **body: Any) -> dict[str, Any]:
        answer = post(self.app, PATH, {"input": "Hi", **body})
        assert 400 <= answer.status_code < 500, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error

    def prompt(self, **body: Any) -> str:
        """What the model is asked for a body."""
        self.create(**body)
        return bytes(self.engine.requests[-1].prompt_token_ids).decode()

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        """The events of a stream, which the official client's types take."""
        answer = post(self.app, PATH, {"input": "Hi", "stream": True, **body})
        assert answer.status_code == 200, answer.text
        return read_events(answer.text)


def read_events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, each with its name; they are numbered from the first one on."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        _EVENTS.validate_python(event)
        events.append(event)
    first = events[0]["sequence_number"]
    assert [e["sequence_number"] for e in events] == list(range(first, first + len(events)))
    return events


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[Any]:
    """The official client of a real server, in this loop: calls go on behind their answers."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with listen("127.0.0.1", 0, None) as listener:
        serving = asyncio.create_task(
            serve(server.app, server.engine, listener, drain_s=0.0, on_ready=ready.set_result)
        )
        async with openai.AsyncOpenAI(
            base_url=f"{await ready}/v1", api_key="any", max_retries=0
        ) as client:
            yield client
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving == 0
