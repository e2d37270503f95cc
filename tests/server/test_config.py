"""ServerConfig refuses what it can't mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flaxen.server.config import ServerConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"api_keys": ("",)}, "printable ASCII .* one of 0 characters"),
        ({"api_keys": ("a b",)}, "without spaces"),
        ({"api_keys": ("é",)}, "printable ASCII"),
        ({"api_keys": "secret"}, "api_keys must be a tuple of strings"),
        ({"served_model_names": (" ",)}, "served model name .* got ' '"),
        ({"cors_origins": ("a\n",)}, "CORS origin"),
        ({"root_path": "llm"}, "root_path must be a path such as /llm, .* got 'llm'"),
        ({"root_path": "/llm/"}, "without a slash at its end"),
        ({"metrics_prefix": "a-b"}, "metrics_prefix must be letters, digits and _, .* got 'a-b'"),
        ({"metrics_prefix": ""}, "metrics_prefix must"),
        ({"max_body_bytes": 0}, "max_body_bytes must be a whole number of at least 1, got 0"),
        ({"max_prompts": 0}, "max_prompts must"),
        ({"max_n": True}, "max_n must .* got True"),
        ({"max_sequences": 0}, "max_sequences must be a whole number of at least 1, got 0"),
        ({"max_messages": 0}, "max_messages must .* at least 1, got 0"),
        ({"max_stop": -1}, "max_stop must .* at least 0, got -1"),
        ({"max_logprobs": 1.5}, "max_logprobs must"),
        ({"body_timeout_s": 0}, "body_timeout_s must be above 0 seconds, got 0"),
        ({"request_timeout_s": math.nan}, "request_timeout_s must .* None sets no limit"),
        ({"request_timeout_s": -1}, "request_timeout_s must be above 0"),
        ({"drain_s": -1}, "drain_s must be at least 0 seconds, got -1"),
        ({"drain_s": math.inf}, "drain_s must"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ServerConfig(**fields)
    assert "secret" not in str(caught.value)
    assert "a b" not in str(caught.value)


def test_takes_the_edges() -> None:
    config = ServerConfig(max_stop=0, max_logprobs=0, drain_s=0, request_timeout_s=None)
    assert config.api_keys == ()
