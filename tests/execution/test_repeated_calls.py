"""What process 0 does on its devices, another process does: here, a second state in this one."""

from __future__ import annotations

import io
import queue
import threading
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.device_calls import DeviceCalls
from flaxen.execution.device_state import DeviceState
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.processes import frames
from flaxen.execution.processes.channel import CLOSE
from flaxen.execution.processes.repeated import RepeatedCalls, follow
from flaxen.protocol import Request
from tests.engine.fakes import add, spelled
from tests.engine.grammars import Rule
from tests.engine.lora import LORA_SHAPE, adapted, make_adapter
from tests.engine.tiny import EOS_ID, MODEL, PARAMS, make_engine, prompts, request, run


class Other:
    """Another process: gets what was sent as bytes, and follows on a thread."""

    def __init__(self) -> None:
        self.state = DeviceState(MODEL, PARAMS, LORA_SHAPE, jnp.dtype("float32"))
        self._sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=follow, args=(self.state, self._next))
        self._thread.start()
        self.names: set[str] = set()

    def through(self, own: DeviceCalls) -> DeviceCalls:
        return RepeatedCalls(own, lambda name, args: self._sent.put(frames.encode(name, args)))

    def _next(self) -> tuple[str, Any]:
        name, arguments = frames.read(io.BytesIO(self._sent.get(timeout=300)).read)
        self.names.add(name)
        return name, arguments

    def end(self) -> None:
        self._sent.put(frames.encode(CLOSE, None))
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_another_process_computes_the_same() -> None:
    other = Other()
    executor = JaxExecutor(
        MODEL,
        PARAMS,
        LORA_SHAPE,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
        through=other.through,
    )
    engine = make_engine(LORA_SHAPE, executor=executor)
    engine.adapters.load("one", make_adapter(1))
    first, second, third, fourth = prompts([20, 9, 30, 5])
    batch = [
        request("logprobs", first, prompt_logprobs=2),
        request("bias", second, logit_bias={7: 5.0}, temperature=0.9, seed=3),
        adapted("adapted", third, "one"),
        replace(request("rule", fourth), grammar=lambda: Rule(lambda _: range(40, 60))),
    ]
    run(engine, batch)
    add(engine, Request(request_id="vector", prompt_token_ids=tuple(first), pooling="mean"))
    while engine.has_work:
        engine.step()
    (copied, _) = executor.read_pages([[0, 1], []])()
    executor.write_pages([[200, 201], []], [copied, copied[:0]])
    with pytest.raises(ValueError, match="other parameters can't be given to an engine that runs"):
        engine.set_params(PARAMS)
    with pytest.raises(ValueError, match="a trainer's adapters can't be given to an engine"):
        engine.set_adapter_stack(("a",), None, None)
    other.end()
    own = executor._calls._own  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(other.state._tokens), np.asarray(own._tokens))
    for mine, theirs in zip(*map(jax.tree.leaves, (own._cache, other.state._cache)), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    assert other.names == {
        "compile", "compile_adapter_load", "load_row", "load_bias", "load_adapter", "step",
        "forward", "sample", "prompt_logprobs", "final_norm", "read_pages", "write_pages", CLOSE,
    }  # fmt: skip
