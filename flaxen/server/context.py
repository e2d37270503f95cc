"""The parts that every route works with. Deliberately does nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.protocol import EngineClient
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError
from flaxen.server.metrics import Metrics
from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Context:
    """One server's engine, tokenizer, chat template, limits and metrics."""

    engine: EngineClient
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None  # None: the model has none
    config: ServerConfig
    metrics: Metrics

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names that requests may use; the first is the main one."""
        return self.config.served_model_names or (self.engine.info.name,)

    def check_model(self, name: str | None) -> str:
        """Returns the name to answer with; a request without one means the main one.

        Raises:
          ApiError: 404, no such model.
        """
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            raise ApiError(
                404,
                f"the model {name[:80]!r} is not served here: use {' or '.join(self.model_names)}",
                param="model",
                code="model_not_found",
            )
        return name
