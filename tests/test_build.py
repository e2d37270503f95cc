"""Sizes that don't fit the model or each other are refused before its weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.build import EngineArgs, build

GOLDEN = str(Path(__file__).parent / "models" / "goldens" / "llama_tied_biases")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dtype": "float64"}, "dtype 'float64' is not supported: use auto, float32 or bfloat16"),
        ({"page_size": 24}, "page_size must divide 128, got 24"),
        ({"page_size": 0}, "page_size must divide 128, got 0"),
        ({"max_model_len": 10**6}, "max_model_len is 1000000, and the model was made for"),
        ({"kv_cache_bytes": 10}, "KV cache of 10 bytes is smaller than one page"),
        ({"max_num_batched_tokens": 8}, "must be at least max_num_seqs"),
        ({"compile_sizes": (16,)}, "the largest of compile_sizes"),
    ],
)
def test_bad_sizes(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(EngineArgs(model=GOLDEN, **args))
