"""Applications behind a real port of this process, for a browser."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from flaxen.protocol import Request
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.fakes import END, FakeEngine, byte_tokenizer

# Shows what a chat has, so that the engine's requests tell what the page sent.
TEMPLATE = (
    "{% for t in tools or [] %}<{{ t.function.name }}>{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}{% endfor %}"
)


class TalkingEngine(FakeEngine):
    """Says the texts that it is given, one a request; the last one again and again."""

    def __init__(self, *texts: str, **more: Any) -> None:
        self._texts = list(texts)
        super().__init__(says=lambda request, index: self._next(), max_model_len=100_000, **more)

    def _next(self) -> list[int]:
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        return [*text.encode(), END]

    @property
    def prompts(self) -> list[str]:
        return [_text(request) for request in self.requests]


def _text(request: Request) -> str:
    return bytes(i for i in request.prompt_token_ids if i < 256).decode()


def talking_app(engine: FakeEngine, template: str | None = TEMPLATE, **config: Any) -> Any:
    return create_app(engine, byte_tokenizer(template), ServerConfig(**config))


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application that is served until the end."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
