"""Where KV events are published: vLLM's `--kv-events-config`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KvEventsConfig:
    """vLLM's keys, with its defaults.

    Raises:
      ValueError: a value is out of its range.
    """

    enable_kv_cache_events: bool = False
    publisher: str | None = None  # zmq or null; None is zmq if events are enabled
    endpoint: str = "tcp://*:5557"  # with a * it is bound, else connected to
    replay_endpoint: str | None = None  # where subscribers ask for batches that they missed
    buffer_steps: int = 10_000  # the last batches, which are kept for that
    hwm: int = 100_000  # batches that wait for a slow subscriber
    max_queue_size: int = 100_000  # batches that wait for the publisher
    topic: str = ""

    def __post_init__(self) -> None:
        if self.publisher not in (None, "zmq", "null"):
            raise ValueError(f"publisher must be 'zmq' or 'null', got {self.publisher!r}")
        for name in ("buffer_steps", "hwm", "max_queue_size"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
        texts = (self.endpoint, self.replay_endpoint or "", self.topic)
        if not all(isinstance(each, str) for each in texts) or self.endpoint == "":
            raise ValueError(f"endpoint, replay_endpoint and topic must be texts, got {texts!r}")
        if not isinstance(self.enable_kv_cache_events, bool):
            raise ValueError(
                f"enable_kv_cache_events must be true or false, got {self.enable_kv_cache_events!r}"
            )

    @property
    def is_on(self) -> bool:
        """Whether anything is published."""
        return self.enable_kv_cache_events and self.publisher != "null"


def read_events_config(given: str | Mapping[str, Any]) -> KvEventsConfig:
    """Reads JSON, or its object.

    Raises:
      ValueError: it is no such object, or what publishes is not installed.
    """
    name = "kv_events_config"
    try:
        values = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be a JSON object, got {given!r}: {error}") from None
    known = [each.name for each in fields(KvEventsConfig)]
    if not isinstance(values, Mapping) or not set(values) <= set(known):
        raise ValueError(f"{name} must be an object of {', '.join(known)}, got {values!r}")
    try:
        config = KvEventsConfig(**values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if config.is_on and not (
        importlib.util.find_spec("zmq") and importlib.util.find_spec("msgpack")
    ):
        raise ValueError(f"{name} needs pyzmq and msgpack: pip install 'flaxen[kv-events]'")
    return config
