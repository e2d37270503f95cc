"""Where models are looked for, and where downloads go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """The directories of models on this machine, and the hub."""

    # A directory of models as plain files; downloads go there, and not into the cache.
    models_dir: Path | None = None
    cache_dir: Path | None = None  # Hugging Face's cache; None: where its client keeps it
    endpoint: str | None = None  # the hub's address; None: the client's own, or HF_ENDPOINT
    offline: bool = False  # never ask the hub

    @property
    def cache(self) -> Path:
        """The directory of Hugging Face's cache."""
        if self.cache_dir is not None:
            return self.cache_dir
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    @property
    def is_offline(self) -> bool:
        """Whether the hub must not be asked, as told by `offline` or by HF_HUB_OFFLINE."""
        if self.offline:
            return True
        from huggingface_hub.constants import is_offline_mode

        return is_offline_mode()
