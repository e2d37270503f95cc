"""A server whose model says what a test writes, and Anthropic's official client for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx2

from flaxen.messages_routes.routes import ROUTES
from flaxen.protocol import TokenEvent
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.clients import post
from tests.server.fakes import END, FakeEngine, byte_tokenizer

HELLO = [{"role": "user", "content": "Hi"}]
# Shows all that a body brings. It has a switch for thinking, and no marker of a format of calls:
# hermes is taken.
TEMPLATE = (
    "{% for t in tools or [] %}<{{ t.function.name }} {{ t.function.parameters }}>{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}({{ m.reasoning_content }})"
    "{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.id }}:"
    "{{ c.function.name }}{{ c.function.arguments }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if enable_thinking is defined %}thinks={{ enable_thinking }}{% endif %}"
)
THINKS = TEMPLATE + "{# <think> </think> #}"
ALWAYS_THINKS = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think> </think> #}"


class Server:
    """An application whose model says one text, and the engine behind it."""

    def __init__(
        self, says: str = "", template: str = TEMPLATE, length: int = 4096, **config: Any
    ) -> None:
        self.engine = _CachingEngine(
            says=lambda request, index: [*says.encode(), END], max_model_len=length
        )
        self.app = create_app(
            self.engine, byte_tokenizer(template), ServerConfig(**config), more_routes=ROUTES
        )

    def post(self, path: str = "/v1/messages", **body: Any) -> Any:
        given = {"model": "fake/model", "max_tokens": 1000, "messages": HELLO, **body}
        return post(self.app, path, {name: each for name, each in given.items() if each != ...})

    def message(self, **body: Any) -> dict[str, Any]:
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        message: dict[str, Any] = answer.json()
        return message

    def error(self, **body: Any) -> str:
        answer = self.post(**body)
        assert answer.status_code == 400, answer.text
        error = answer.json()
        assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
        message: str = error["error"]["message"]
        return message

    def prompt(self, **body: Any) -> str:
        self.message(**body)
        return bytes(self.engine.requests[-1].prompt_token_ids).decode()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """The official client; Any, since bodies here are dicts and not its typed arguments."""
        client: Any
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport) as http:
            client = anthropic.AsyncAnthropic(
                base_url="http://flaxen", api_key="any", http_client=http, max_retries=0
            )
            yield client


class _CachingEngine(FakeEngine):
    """Finds the first four tokens of every prompt in its cache."""

    async def _run(self, request: Any) -> AsyncIterator[TokenEvent]:
        async for event in super()._run(request):
            finish = event.finish and replace(event.finish, num_cached_tokens=4)
            yield replace(event, finish=finish)
