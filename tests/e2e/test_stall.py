"""One client's long chats and prompts do not hold up another's chat on a real server."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.serving import CAPITAL, MODEL, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHAT = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "a"}] * 100_000, "max_tokens": 1}
)
PROMPT = json.dumps({"model": MODEL, "prompt": "hello world, how are you? " * 30_000})


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/chat/completions", CHAT, "messages must hold at most 2048 messages"),
        ("/v1/completions", PROMPT, "maximum context length is 1024 tokens"),
    ],
    ids=["chats", "prompts"],
)
def test_a_small_chat_is_not_behind_ten_huge_requests(
    server: Server, path: str, body: str, words: str
) -> None:
    def send(_: int) -> str:
        answer = server.http.post(
            path, content=body, headers={"content-type": "application/json"}, timeout=300
        )
        assert answer.status_code in (400, 429, 503), answer.text
        return str(answer.json()["error"]["message"])

    server.chat(CAPITAL, max_tokens=1)
    with ThreadPoolExecutor(10) as pool:
        huge = [pool.submit(send, i) for i in range(10)]
        waits_s: list[float] = []
        while not waits_s or not all(each.done() for each in huge):
            begin = time.monotonic()
            server.chat(CAPITAL, max_tokens=1)
            waits_s.append(time.monotonic() - begin)
        messages = [each.result() for each in huge]
    assert any(words in message for message in messages), messages
    # Behind them all it would wait 10 s and more; what is left is reading their JSON.
    assert max(waits_s) < 6, waits_s
