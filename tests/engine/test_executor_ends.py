"""An executor that nobody holds any more: its last step may still read its parameters."""

from __future__ import annotations

import gc
import sys

from flaxen.engine.jax_executor import JaxExecutor
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
