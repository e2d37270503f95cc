"""A tiny encoder with random weights, once for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flaxen.build import Parts, build
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine_args import EngineArgs
from flaxen.learned_signals.encoder import Encoder
from tests.models import encoders

MakeEncoder = Callable[..., Encoder]


@pytest.fixture(scope="package")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = encoders.make(encoders.CASES["bert"])
    directory = encoders.save(model, tmp_path_factory.mktemp("encoder"))
    return build(EngineArgs(model=str(directory), dtype="float32", compile_sizes=(512,)))


@pytest.fixture(scope="package")
def engine(parts: Parts) -> Iterator[AsyncEngine]:
    with AsyncEngine(parts.engine) as engine:
        yield engine


@pytest.fixture
def make_encoder(engine: AsyncEngine, parts: Parts) -> MakeEncoder:
    """Makes encoders that know nothing yet, over one engine."""
    return lambda **options: Encoder(engine, parts.tokenizer, parts.info, **options)
