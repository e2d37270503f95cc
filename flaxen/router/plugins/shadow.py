"""The plugin shadow_dispatch: which requests go to another model as well."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from flaxen.router.checks import Limited, check_named, limited
from flaxen.router.plugins.reply import Json


@dataclass(frozen=True, kw_only=True)
class ShadowDispatch(Limited):
    """Sends a share of the requests to another model as well; its answers only go to the log."""

    enabled: bool
    model: str = ""
    sample_rate: float = limited(1.0, 0, 1)
    max_concurrency: int = limited(2, 1)
    max_queue_depth: int = limited(8, 0)
    timeout_seconds: int = limited(30, 1)
    max_response_bytes: int = limited(1_048_576, 1)
    max_retries: int = limited(0, 0, 3)
    capture_response_body: bool = False
    max_capture_bytes: int = limited(4_096, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
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
