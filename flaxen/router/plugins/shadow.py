"""The plugin shadow_dispatch: which requests go to another model as well."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flaxen.router.checks import check_at_least, check_between, check_named
from flaxen.router.plugins.reply import Json


@dataclass(frozen=True, kw_only=True)
class ShadowDispatch:
    """Sends a share of the requests to another model as well; its answers only go to the log."""

    enabled: bool
    model: str = ""
    sample_rate: float = 1.0
    max_concurrency: int = 2
    max_queue_depth: int = 8
    timeout_seconds: int = 30
    max_response_bytes: int = 1_048_576
    max_retries: int = 0
    capture_response_body: bool = False
    max_capture_bytes: int = 4_096

    def __post_init__(self) -> None:
        check_between("sample_rate", self.sample_rate, 0, 1)
        check_between("max_retries", self.max_retries, 0, 3)
        for name in ("max_concurrency", "timeout_seconds", "max_response_bytes"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("max_queue_depth", self.max_queue_depth, 0)
        check_at_least("max_capture_bytes", self.max_capture_bytes, 0)
        if self.enabled:
            check_named("model", self.model)

    def takes(self, request_id: str) -> bool:
        """Whether a request goes to the other model: by its id, so that a retry changes nothing."""
        digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8)
        return self.enabled and int.from_bytes(digest.digest(), "big") < self.sample_rate * 2**64


def shadow_body(body: Json, plugin: ShadowDispatch) -> Json:
    """What the other model is asked: the same, whole, and not kept by its server."""
    left = {k: v for k, v in body.items() if k not in ("stream", "stream_options", "background")}
    kept = {"store": False} if "store" in body else {}
    return {**left, **kept, "model": plugin.model}
