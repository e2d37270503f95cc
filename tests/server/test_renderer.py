"""No client's chats hold up another's: slow ones, large ones and those that hang have a lane."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from flaxen.server.errors import ApiError
from flaxen.server.renderer import ChatRenderer
from flaxen.text.chat_process import TemplateTimeoutError
from tests.server.clients import run

SMALL = [{"role": "user", "content": "Hi"}]
LARGE = [{"role": "user", "content": "a" * 300_000}]
HANGS = [{"role": "user", "content": "hang"}]


class Gated:
    """A template that hangs on some chats until its limit, and on large ones until the gate."""

    def __init__(self, timeout_s: float, gate: threading.Event) -> None:
        self.timeout_s = timeout_s
        self.num_at_once = 0
        self.missing: str | None = None
        self._gate = gate

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        self.num_at_once += 1
        assert self.num_at_once == 1, "a template renders one chat at a time"
        try:
            content = str(messages[0]["content"])
            if content == "hang":
                time.sleep(self.timeout_s)
                raise TemplateTimeoutError(f"took longer than {self.timeout_s} s")
            if content == "refuse":
                raise ValueError("no such talk")
            if len(content) > 256_000 or variables.get("large"):
                self._gate.wait()
            return f"{content[:9]}{add_generation_prompt}{variables.get('x', '')}"
        finally:
            self.num_at_once -= 1


class Made:
    """Makes gated templates, and remembers them."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.templates: list[Gated] = []

    def __call__(self, timeout_s: float) -> Gated:
        self.templates.append(Gated(timeout_s, self.gate))
        return self.templates[-1]


async def render(renderer: ChatRenderer, messages: Any, **variables: Any) -> str:
    return await renderer.render(messages, add_generation_prompt=False, variables=variables)


def test_a_small_chat_passes_large_ones() -> None:
    async def work() -> None:
        made = Made()
        renderer = ChatRenderer(made, quick_s=0.05, slow_s=1.0)
        assert await render(renderer, SMALL, x=1) == "HiFalse1"
        large = [asyncio.create_task(render(renderer, LARGE)) for _ in range(9)]
        await asyncio.sleep(0)
        # They all wait for the gate, and no small one with them.
        assert await asyncio.gather(*(render(renderer, SMALL) for _ in range(50)))
        assert not any(task.done() for task in large)
        with pytest.raises(ApiError, match="too many requests wait for the chat template: 9 do"):
            await render(renderer, LARGE)
        with pytest.raises(ApiError, match="too many requests wait for the chat template"):
            await render(renderer, SMALL, large="a" * 300_000)
        made.gate.set()
        assert await asyncio.gather(*large) == ["aaaaaaaaaFalse"] * 9
        assert sum(template.timeout_s == 1.0 for template in made.templates) == 1
        assert sum(template.timeout_s == 0.05 for template in made.templates) <= 2

    run(work())


def test_many_clients_may_begin_at_once() -> None:
    async def work() -> None:
        renderer = ChatRenderer(Made(), quick_s=5.0)
        texts = await asyncio.gather(*(render(renderer, SMALL) for _ in range(1000)))
        assert texts == ["HiFalse"] * 1000

    run(work())


def test_what_hangs_leaves_the_quick_lane() -> None:
    async def work() -> None:
        renderer = ChatRenderer(Made(), quick_s=0.05, slow_s=1.0)
        hanging = [asyncio.create_task(render(renderer, HANGS)) for _ in range(6)]
        await asyncio.sleep(0)
        begin = time.monotonic()
        assert await render(renderer, SMALL) == "HiFalse"
        # Six that hang take 0.15 s of the quick lane's two threads, and 6 s of the slow lane's one.
        assert time.monotonic() - begin < 0.9
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    run(work())


def test_what_hangs_on_both_lanes_is_told_so() -> None:
    renderer = ChatRenderer(Made(), quick_s=0.01, slow_s=0.03)
    with pytest.raises(ApiError, match=r"took longer than 0\.03 s") as caught:
        run(render(renderer, HANGS))
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_templates_own_message_is_a_400() -> None:
    with pytest.raises(ApiError, match="no such talk") as caught:
        run(render(ChatRenderer(Made()), [{"role": "user", "content": "refuse"}]))
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_chat_whose_turn_does_not_come_is_told_so() -> None:
    async def work() -> None:
        made = Made()
        renderer = ChatRenderer(made, timeout_s=0.1)
        tasks = [asyncio.create_task(render(renderer, LARGE)) for _ in range(3)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        made.gate.set()
        for error in errors:
            assert isinstance(error, ApiError)
            assert error.status == 503
            assert "rendering the messages with the chat template was not done" in error.message
        assert await render(renderer, SMALL) == "HiFalse"

    run(work())


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a"}] * 13_000,
        [{"role": "user", "content": [{"type": "text", "text": "a" * 100_000}] * 3}],
        [{"role": "assistant", "content": None}, *LARGE],
    ],
)
def test_a_chat_may_be_large_in_many_ways(messages: Any) -> None:
    async def work() -> None:
        made = Made()
        made.gate.set()
        renderer = ChatRenderer(made, quick_s=0.5, slow_s=1.0)
        await render(renderer, messages)
        assert [template.timeout_s for template in made.templates] == [0.5, 1.0]

    run(work())
