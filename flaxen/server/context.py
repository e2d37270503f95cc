"""The parts that every route uses. Deliberately does nothing itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from flaxen.output_parsers.table import Formats, choose_formats
from flaxen.protocol import EngineClient, UnknownAdapterError
from flaxen.server.adapter_files import AdapterFiles
from flaxen.server.body import body_lane
from flaxen.server.config import ServerConfig
from flaxen.server.errors import ApiError
from flaxen.server.lanes import Lane
from flaxen.server.metrics import Metrics
from flaxen.server.renderer import ChatRenderer
from flaxen.structured import GrammarCompiler
from flaxen.text.tokenizer import Tokenizer

_MAX_NAMED = 20  # the most adapters that an error lists


@dataclass(frozen=True, kw_only=True)
class Context:
    """One server's engine, tokenizer, chat template, grammars, limits, metrics and threads."""

    engine: EngineClient
    tokenizer: Tokenizer
    chat_template: ChatRenderer | None  # None: the model has no template
    config: ServerConfig
    metrics: Metrics
    # How the model writes tool calls and reasoning.
    formats: Formats = field(
        default_factory=lambda: choose_formats(None, tool_parser=None, reasoning_parser=None)
    )
    adapter_files: AdapterFiles | None = None  # None: clients can't load adapters
    grammars: GrammarCompiler
    # One thread: grammars compile in milliseconds, but a hostile one must not take two processors.
    grammar_lane: Lane = field(
        default_factory=lambda: Lane("a grammar", num_threads=1, max_waiting=256)
    )
    bodies: Lane = field(default_factory=body_lane)
    # Threads for texts whose tokenization would block the event loop, and for very long texts.
    long_texts: Lane = field(
        default_factory=lambda: Lane("the tokenizer", num_threads=1, max_waiting=64)
    )
    huge_texts: Lane = field(
        default_factory=lambda: Lane("the tokenizer", num_threads=1, max_waiting=8)
    )
    # Threads that read adapters. Waiters for an adapter that is being read get it when it is done.
    adapters: Lane = field(
        default_factory=lambda: Lane("an adapter", num_threads=2, max_waiting=4096)
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names that requests may use; the first is the main one."""
        return self.config.served_model_names or (self.engine.info.name,)

    def check_model(self, name: str | None) -> str:
        """Returns the name to answer with; a request without one means the main one.

        Raises:
          ApiError: 404, no such model.
        """
        return self.find_model(name)[0]

    @functools.cached_property
    def special_texts(self) -> frozenset[str]:
        """The texts of the tokenizer's special tokens."""
        token_ids = self.tokenizer.special_token_ids
        return frozenset(
            self.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in token_ids
        )

    async def hold_adapter(self, name: str | None) -> object:
        """Loads an adapter's weights and keeps them in memory for as long as the result exists.

        Raises:
          UnknownAdapterError: the adapter is no longer served.
          ApiError: 404, it was removed while it was read; 500, its weights can't be read.
        """
        if name is None:
            return None
        known = {adapter.name: adapter for adapter in self.engine.adapters()}
        try:
            if name in known and known[name].is_in_memory:
                return self.engine.hold_adapter(name)
            return await self.adapters.run(functools.partial(self.engine.hold_adapter, name))
        except UnknownAdapterError:
            raise
        except (ValueError, OSError) as error:
            self.find_served(name)  # raises if it was removed while it was read
            raise ApiError(
                500,
                f"the weights of the model {name[:80]!r} can't be read: the server's log has the "
                "cause. Tell whoever runs it, or delete the model",
                param="model",
                code="model_unreadable",
                type="server_error",
                cause=error,
            ) from None

    def find_model(self, name: str | None) -> tuple[str, str | None]:
        """Returns the name to answer with, and the adapter's name, None for the base model.

        An adapter can be named as "adapter" or as "base:adapter".

        Raises:
          ApiError: 404, no such model, and `any_model_name` is off.
        """
        if name is None or (self.config.any_model_name and self._known_model(name) is None):
            return self.model_names[0], None
        return self.find_served(name)

    def find_served(self, name: str) -> tuple[str, str | None]:
        """As `find_model`, of the names that are served alone; raises as it does."""
        known = self._known_model(name)
        if known is not None:
            return known
        adapters = {adapter.name for adapter in self.engine.adapters()}
        served = " or ".join((*self.model_names, *sorted(adapters)[:_MAX_NAMED]))
        raise ApiError(
            404,
            f"the model {name[:80]!r} is not served here: use {served}",
            param="model",
            code="model_not_found",
        )

    def _known_model(self, name: str) -> tuple[str, str | None] | None:
        """A served name with its adapter's name; None if nothing has this name."""
        if name in self.model_names:
            return name, None
        adapters = {adapter.name for adapter in self.engine.adapters()}
        if name in adapters:
            return name, name
        for base in self.model_names:
            adapter = name.removeprefix(f"{base}:")
            if adapter != name and adapter in adapters:
                return name, adapter
        return None
