"""Generation from asyncio: `AsyncLLM` streams, for many callers at once. Names are vLLM's.

Deliberately does not know: HTTP, argv, how an engine works.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxen.build import OnProgress, build
from flaxen.compile_cache import CompileCache, choose_compile_cache
from flaxen.definitions.definition import Definition
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine_args import EngineArgs
from flaxen.outputs import RequestOutput
from flaxen.prompts import Prompt, chat_prompt, make_request, model_template, prompt_text
from flaxen.protocol import SamplingParams
from flaxen.scheduling.config import LoraLimits
from flaxen.structured import GrammarCompiler
from flaxen.weights.adapters import peft
from flaxen.weights.adapters.adapter import Adapter


class AsyncLLM:
    """A model that generates on its own thread until `shutdown`.

    Args and errors are LLM's.
    """

    def __init__(
        self,
        model: str | Path | Definition,
        *,
        on_progress: OnProgress | None = None,
        compile_cache: CompileCache = None,
        lora: LoraLimits | None = None,
        **engine_args: Any,
    ) -> None:
        choose_compile_cache(compile_cache, os.environ)
        definition = model if isinstance(model, Definition) else None
        name = definition.name if definition is not None else str(model)
        args = EngineArgs(model=name, **engine_args)
        parts = build(args, on_progress, compiles_beside=True, lora=lora, definition=definition)
        self._model = parts.model
        self.tokenizer = parts.tokenizer
        self.info = parts.info
        self.engine = AsyncEngine(parts.engine)
        self._grammars = GrammarCompiler(
            self.tokenizer, self.info.vocab_size, self.info.eos_token_ids
        )
        self._template = model_template(parts.tokenizer)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json sets; dataclasses.replace changes fields."""
        return SamplingParams(**self.info.default_sampling)

    def load_adapter(
        self, name: str, adapter: Adapter | str | Path, *, load_inplace: bool = False
    ) -> None:
        """Like LLM.load_adapter. Blocks while it reads a directory: not for a coroutine."""
        if not isinstance(adapter, Adapter):
            adapter = peft.load_adapter(Path(adapter), self._model)
        self.engine.load_adapter(name, adapter, load_inplace=load_inplace)

    def unload_adapter(self, name: str) -> None:
        """Unloads an adapter; running requests finish with it. ValueError: no adapter has this
        name.
        """
        self.engine.unload_adapter(name)

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        adapter: str | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Continues a prompt. Yields the output so far, the same object each time, as it grows.

        Leaving the loop early, or cancelling the task, aborts the request.

        Args:
          prompt: text, token ids, or a dict of either.
          sampling_params: how to sample.
          request_id: unique among open requests.
          adapter: the name of a loaded adapter; None is the base model.

        Raises:
          ValueError: the request is invalid, or the structure of its output can't be done.
          EngineBusyError: the queue is full.
          EngineClosedError: after `shutdown`.
        """
        structure, make_grammar = sampling_params.structured_outputs, None
        if structure is not None:
            make_grammar = await asyncio.to_thread(self._grammars.compile, structure)
        request = make_request(
            self.tokenizer, prompt, sampling_params, request_id, adapter, make_grammar
        )
        output = RequestOutput.of(request, prompt_text(prompt), self.tokenizer)
        events = self.engine.submit(request)
        try:
            async for event in events:
                output.add(event)
                yield output
        finally:
            await events.aclose()

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        adapter: str | None = None,
        **template_variables: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answers a conversation; otherwise like `generate`."""
        prompt = chat_prompt(self.tokenizer, self._template, messages, **template_variables)
        async for output in self.generate(prompt, sampling_params, request_id, adapter=adapter):
            yield output

    def abort(self, request_id: str) -> None:
        """Ends a request early; an unknown id is ignored."""
        self.engine.abort(request_id)

    async def shutdown(self, drain_s: float = 0.0) -> None:
        """Refuses new requests, lets open ones run up to `drain_s` seconds, and aborts the rest."""
        await self.engine.close(drain_s)
        self._template.close()
