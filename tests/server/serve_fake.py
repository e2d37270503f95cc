"""A process that serves the fake engine. Arguments: seconds a token, seconds to drain."""

from __future__ import annotations

import sys

from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.server.run import run
from tests.server.fakes import FakeEngine, byte_tokenizer

engine = FakeEngine(step_s=float(sys.argv[1]))
run(
    create_app(engine, byte_tokenizer(), ServerConfig()),
    engine,
    port=0,
    drain_s=float(sys.argv[2]),
    on_ready=lambda url: print(url, flush=True),
)
print("stopped in order", flush=True)
