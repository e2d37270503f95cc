"""Anthropic's official client gets what it asks for, whole and streamed."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.e2e.serving import CAPITAL, KEY, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_messages_of_smollm2_and_what_was_found_of_them_in_the_cache(server: Server) -> None:
    system = "You answer in one short sentence, and never with a question. " * 4
    asked: dict[str, Any] = {
        "model": server.model,
        "max_tokens": 20,
        "system": system,
        "messages": CAPITAL,
        "extra_body": {"temperature": 0},
    }
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        first = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            second = stream.get_final_message()
        asked.pop("max_tokens")
        asked.pop("extra_body")
        counted = client.messages.count_tokens(**asked)
    chat = server.chat([{"role": "system", "content": system}, *CAPITAL], max_tokens=20)
    assert [block.text for block in first.content] == [block.text for block in second.content]
    assert first.content[0].text == chat.choices[0].message.content
    for message in (first, second):
        usage = message.usage
        total = usage.input_tokens + (usage.cache_read_input_tokens or 0)
        assert total == counted.input_tokens == chat.usage.prompt_tokens
    assert first.usage.cache_read_input_tokens == 0
    assert second.usage.cache_read_input_tokens == chat.usage.prompt_tokens_details.cached_tokens
    assert second.usage.cache_read_input_tokens > 0
