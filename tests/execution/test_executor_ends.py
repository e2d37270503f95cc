"""An executor that nobody holds any more: its last step may still read its parameters."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.protocol import Request, SamplingParams
from tests.engine.tiny import make_engine, make_executor, run


def test_its_end_leaves_no_reference_to_its_code() -> None:
    """A traceback of jaxlib that holds the code of __del__ was seen to be freed twice."""
    code = JaxExecutor.__del__.__code__
    engine = make_engine(executor=make_executor())
    sampling = SamplingParams(max_tokens=2)
    run(engine, [Request(request_id="r", prompt_token_ids=(1, 2), sampling=sampling)])
    gc.collect()
    before = sys.getrefcount(code)
    del engine
    assert sys.getrefcount(code) == before


PROGRAM = """
from flaxen.protocol import Request, SamplingParams
from tests.engine.tiny import make_engine, make_executor, run

engine = make_engine(executor=make_executor())
sampling = SamplingParams(max_tokens=2)
run(engine, [Request(request_id="r", prompt_token_ids=(1, 2), sampling=sampling)])
"""


def test_a_program_that_holds_an_engine_to_its_end_prints_nothing() -> None:
    """The executor's __del__ comes when Python has taken the modules apart."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
