"""Encoder: the vectors of texts, through an engine that batches them across requests.

Deliberately does not know: rules, heads.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flaxen.build import build
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine_args import EngineArgs
from flaxen.learned_signals.cache import ContentCache, name_of
from flaxen.learned_signals.windows import Cutter, Ids, Vectors, Window, Windows, unit
from flaxen.pooling.params import pooling_of
from flaxen.protocol import EngineClient, ModelInfo, Request
from flaxen.tensors.packing.pack import Quantization
from flaxen.text.tokenizer import Tokenizer

_LONG_TEXT = 20_000  # characters from which a text is cut into tokens beside the event loop
_AT_ONCE = 4096  # tokens of one text that the engine has at a time, so that others come between
# The length of a window where the encoder does not say for which it was trained.
_WINDOW_TOKENS = 256


class _Found(NamedTuple):
    vector: Vectors  # [dimensions], of length 1
    spans: NDArray[np.float16]  # [spans, dimensions], of length 1


class TextTooLongError(ValueError):
    """A text has more windows than are read of one."""


class Encoder:
    """The vectors of texts, one pass of the encoder for each window that is not known yet.

    Whoever asks for a window that is being computed waits for that. Its methods are for one event
    loop at a time.

    Args:
      engine: of an encoder that gives embeddings; whoever made it closes it.
      tokenizer: the encoder's.
      info: the encoder's.
      capacity: the windows whose vectors are kept.
      max_windows: the most windows of a text. A longer one is refused, never cut.

    Raises:
      FieldError: the engine gives no embeddings.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        info: ModelInfo,
        *,
        capacity: int = 8192,
        max_windows: int = 2048,
    ) -> None:
        self.info = info
        self._pooling = pooling_of(info, "embed")
        most = min(info.max_model_len, self._pooling.max_tokens or _WINDOW_TOKENS)
        self._cutter = Cutter(tokenizer, most)
        self._engine = engine
        self._max_windows = max_windows
        self._cache: ContentCache[_Found] = ContentCache(capacity)
        self._running: dict[bytes, asyncio.Task[_Found]] = {}
        self._ids = itertools.count()
        self.num_passes = 0  # windows that the engine was asked for

    async def windows(self, text: str, *, with_pieces: bool = False) -> Windows:
        """The vectors of a text's windows, and of its pieces as they stand in these.

        Raises:
          TextTooLongError: it has more windows than may be read of one text.
          ValueError: it is not valid Unicode.
          EngineBusyError, EngineClosedError, EngineBrokenError: the engine takes nothing.
          RuntimeError: the engine failed in this pass.
        """
        if len(text) < _LONG_TEXT:
            cut = self._cutter.windows(text)
        else:
            cut = await asyncio.to_thread(self._cutter.windows, text)
        if len(cut) > self._max_windows:
            raise TextTooLongError(
                f"the text has {len(cut)} windows, and at most {self._max_windows} are read: "
                "shorten it, or raise max_windows"
            )
        found = await self._read(cut if with_pieces else [Window(each.ids, ()) for each in cut])
        vectors = np.stack([each.vector for each in found])
        if not with_pieces:
            return Windows(vectors)
        framed = self._cutter.framed
        pieces = tuple(framed(each.ids[slice(*span)]) for each in cut for span in each.spans)
        in_context = np.concatenate([each.spans for each in found]).astype(np.float32)
        return Windows(vectors, pieces, in_context)

    async def alone(self, pieces: Sequence[Ids]) -> Vectors:
        """The vectors of one piece or more that are read by themselves, [pieces, dimensions];
        raises as `windows`."""
        found = await self._read([Window(ids, ()) for ids in pieces])
        return np.stack([each.vector for each in found])

    async def pooled(self, texts: Sequence[str]) -> Vectors:
        """The vectors of whole texts, [texts, dimensions]; raises as `windows`."""
        found: list[Vectors] = []
        for begin in range(0, len(texts), 256):
            some = texts[begin : begin + 256]
            found += [each.pooled for each in await asyncio.gather(*map(self.windows, some))]
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    async def _read(self, windows: Sequence[Window]) -> list[_Found]:
        if len(windows) == 1:  # without a task more
            return [await self._window(windows[0])]
        found: list[_Found] = []
        num = max(1, _AT_ONCE // max(len(each.ids) for each in windows))
        for begin in range(0, len(windows), num):
            found += await asyncio.gather(*map(self._window, windows[begin : begin + num]))
        return found

    async def _window(self, window: Window) -> _Found:
        spans = itertools.chain.from_iterable((-1, *span) for span in window.spans)
        name = name_of([*window.ids, *spans])
        known = self._cache.get(name)
        if known is not None:
            return known
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.create_task(self._compute(name, window))
            running.add_done_callback(functools.partial(self._end, name))
        # Whoever gives up waiting does not end what others may wait for.
        return await asyncio.shield(running)

    def _end(self, name: bytes, task: asyncio.Task[_Found]) -> None:
        self._running.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; if nobody does, asyncio need not complain

    async def _compute(self, name: bytes, window: Window) -> _Found:
        self.num_passes += 1
        request = Request(
            request_id=f"signal-{next(self._ids)}",
            prompt_token_ids=window.ids,
            pooling=self._pooling.pooling,
            pooled_spans=window.spans,
        )
        async for event in self._engine.submit(request):
            finish = event.finish
            if finish is not None and finish.pooled is not None:
                vector = unit(np.asarray(finish.pooled, np.float32))
                spans = np.frombuffer(finish.spans, np.float32).reshape(-1, len(vector))
                # Spans only say what is read again: half the bytes are enough.
                found = _Found(vector, unit(spans).astype(np.float16))
                self._cache.put(name, found)
                self._cache.put(name_of(window.ids), _Found(vector, found.spans[:0]))
                return found
            if finish is not None:
                raise RuntimeError(f"the encoder gave no vector: {finish.error or finish.reason}")
        raise RuntimeError("the encoder gave no vector")


class OpenEncoder:
    """An encoder with an engine of its own, until `close`. As a context manager it closes itself.

    Args:
      model: as everywhere: a short name, a directory, ORG/NAME.
      quantization: of its weights.
      offline: never ask the Hugging Face hub.

    Raises:
      ValueError: no such model, or it gives no embeddings.
    """

    def __init__(
        self, model: str = "minilm", *, quantization: Quantization = "int8", offline: bool = False
    ) -> None:
        args = EngineArgs(model=model, quantization=quantization, runner="pooling", offline=offline)
        parts = build(args, compiles_beside=True)
        self._engine = AsyncEngine(parts.engine)
        self.encoder = Encoder(self._engine, parts.tokenizer, parts.info)

    def __enter__(self) -> Encoder:
        return self.encoder

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine; what runs fails."""
        self._engine.stop()
