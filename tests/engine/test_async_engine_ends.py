"""The engine's thread ends before Python does, whichever way a program ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.protocol import EngineClosedError
from tests.engine.fakes import fake_engine

# A program whose own error ends it while the engine is amid a step.
PROGRAM = """
import asyncio, time
from flaxen.engine.async_engine import AsyncEngine
from tests.engine.fakes import SMALL, FakeExecutor, fake_engine
from flaxen.protocol import Request, SamplingParams

class SlowExecutor(FakeExecutor):
    def fetch(self, plan, handle):
        print("step", flush=True)
        time.sleep(0.3)
        print("ended", flush=True)
        return handle

async def main():
    engine = AsyncEngine(fake_engine(SMALL, SlowExecutor(SMALL, poison=None)))
    sampling = SamplingParams(max_tokens=40, ignore_eos=True)
    request = Request(request_id="a", prompt_token_ids=(5,), sampling=sampling)
    async for event in engine.submit(request):
        raise RuntimeError("the program's own")

asyncio.run(main())
"""


def test_a_program_that_fails_waits_for_the_step_that_runs() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: the program's own")
    steps = done.stdout.split()
    assert steps[:2] == ["step", "ended"]
    assert steps.count("step") == steps.count("ended") < 40


def test_leaving_the_block_ends_the_thread() -> None:
    with pytest.raises(OSError, match="a bad file"), AsyncEngine(fake_engine()) as it:
        raise OSError("a bad file")
    with pytest.raises(EngineClosedError, match="shutting down"):
        it.check_health()
    assert not it._thread.is_alive()
