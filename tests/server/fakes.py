"""An engine whose tokens are computable by hand, and a real tokenizer of one token a byte."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import tokenizers

from flaxen.protocol import (
    AdapterInfo,
    AdapterSource,
    AdapterWeights,
    EngineBusyError,
    EngineClient,
    EngineClosedError,
    EngineStats,
    Finish,
    FinishReason,
    ModelInfo,
    Request,
    TokenEvent,
    TokenLogprobs,
    UnknownAdapterError,
)
from flaxen.text.parts import TokenizerParts
from flaxen.text.tokenizer import Tokenizer

BOS, END = 256, 257
VOCAB_SIZE = 258
TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refuse' %}{{ raise_exception('no such talk') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ extra }}"
)


def byte_tokenizer(
    chat_template: str | None = TEMPLATE, named_templates: Mapping[str, str] = MappingProxyType({})
) -> Tokenizer:
    """Token i is byte i; then "<s>", put before a prompt, and "</s>"."""
    # GPT-2's spelling of bytes: the printable ones stand for themselves, the others follow at 256.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable}
    vocab |= {chr(256 + i): byte for i, byte in enumerate(others)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    parts = TokenizerParts(
        backend=backend,
        bos_token_id=BOS,
        eos_token_ids=(END,),
        chat_template=chat_template,
        named_templates=named_templates,
        prefix_ids=(BOS,),
    )
    return Tokenizer(parts)


def letters(request: Request, index: int) -> list[int]:
    """Sequence 0 says "abcd…", sequence 1 "bcde…", and so on; far more than is ever asked for."""
    return [ord("a") + (index + k) % 26 for k in range(100_000)]


def likely(token_id: int, count: int) -> TokenLogprobs:
    """The token is the likeliest, at -0.5; those with lower ids follow, at -1.5, -2.5, …"""
    top = tuple((token_id - k, -0.5 - k) for k in range(count))
    return TokenLogprobs(token_id=token_id, logprob=-0.5, rank=1, top=top)


class FakeEngine(EngineClient):
    """Every sequence says `says`, a token each `step_s` seconds, up to max_tokens."""

    def __init__(
        self,
        *,
        says: Callable[[Request, int], list[int]] = letters,
        step_s: float = 0.0,
        max_model_len: int = 4096,
        max_waiting: int = 1000,
        ends: dict[int, Finish] | None = None,  # an early end at a sequence's k-th token
        raises: Exception | None = None,  # in place of the third token
    ) -> None:
        self.info = ModelInfo(
            name="fake/model",
            vocab_size=VOCAB_SIZE,
            max_model_len=max_model_len,
            max_logprobs=20,
            eos_token_ids=(END,),
            created=1_700_000_000,
        )
        self.requests: list[Request] = []
        self.open: set[str] = set()
        self.aborted: list[str] = []
        self.ended: list[str] = []  # streams whose generator was left, in whichever way
        self.closed = False
        self.num_resets = 0  # of the prefix cache
        self.known: dict[str, AdapterWeights] = {}  # adapters in memory
        self.sources: dict[str, AdapterSource] = {}  # of registered ones
        self._says = says
        self._step_s = step_s
        self._max_waiting = max_waiting
        self._ends = ends or {}
        self._raises = raises

    def submit(self, request: Request) -> AsyncIterator[TokenEvent]:
        self.check_health()
        if len(self.open) >= self._max_waiting:
            raise EngineBusyError("full")
        if request.sampling.n > 64:
            raise ValueError("the engine runs at most 64 sequences of a request")
        if request.adapter is not None and request.adapter not in self.known:
            raise UnknownAdapterError(f"there is no adapter {request.adapter!r}")
        self.requests.append(request)
        self.open.add(request.request_id)
        return self._run(request)

    async def _run(self, request: Request) -> AsyncIterator[TokenEvent]:
        sampling, begin = request.sampling, asyncio.get_running_loop().time()
        outputs = {i: self._says(request, i) for i in range(sampling.n)}
        decoders = {i: codecs.getincrementaldecoder("utf-8")("replace") for i in outputs}
        try:
            for k in range(sampling.max_tokens or 16):
                await asyncio.sleep(self._step_s)
                if self._raises is not None and k == 2:
                    raise self._raises
                late = asyncio.get_running_loop().time() - begin >= (request.timeout_s or 1e9)
                for i, output in list(outputs.items()):
                    if k == len(output):
                        return  # a fault: the sequence never gets its finish
                    finish = self._ends.get(k)
                    if late or request.request_id not in self.open:
                        reason = FinishReason.TIMEOUT if late else FinishReason.ABORT
                        finish = _finish(reason, error=reason.value)
                    elif output[k] in sampling.stop_token_ids:
                        finish = _finish(FinishReason.STOP, stop_reason=output[k])
                    elif output[k] == END:
                        finish = _finish(FinishReason.STOP)
                    elif k + 1 == sampling.max_tokens:
                        finish = _finish(FinishReason.LENGTH)
                    if finish is not None:
                        del outputs[i]
                        finish = replace(
                            finish,
                            num_prompt_tokens=len(request.prompt_token_ids),
                            num_output_tokens=k + 1,
                        )
                    yield self._event(request, i, k, output[k], decoders[i], finish)
                if not outputs:
                    return
        finally:
            self.open.discard(request.request_id)
            self.ended.append(request.request_id)

    def _event(
        self,
        request: Request,
        index: int,
        k: int,
        token_id: int,
        decoder: codecs.IncrementalDecoder,
        finish: Finish | None,
    ) -> TokenEvent:
        sampling = request.sampling
        prompt = logprobs = None
        if sampling.logprobs is not None:
            entry = likely(token_id, sampling.logprobs)
            labels = tuple((label, -1.0) for label in sampling.logprob_token_ids)
            logprobs = (replace(entry, top=labels) if labels else entry,)
        if k == 0 and index == 0 and sampling.prompt_logprobs is not None:
            scored = request.prompt_token_ids[1:]
            prompt = (None, *(likely(i, sampling.prompt_logprobs) for i in scored))
        return TokenEvent(
            request_id=request.request_id,
            index=index,
            token_ids=(token_id,),
            text=decoder.decode(b"" if token_id == END else bytes([token_id]), finish is not None),
            logprobs=logprobs,
            prompt_logprobs=prompt,
            finish=finish,
        )

    def abort(self, request_id: str) -> None:
        if request_id in self.open:
            self.open.discard(request_id)
            self.aborted.append(request_id)

    def load_adapter(
        self, name: str, adapter: AdapterWeights, *, load_inplace: bool = False
    ) -> None:
        if adapter.config.rank > 16:
            raise ValueError(f"the adapter's rank is {adapter.config.rank}, and max_lora_rank 16")
        if name in self.known and not load_inplace:
            raise ValueError(f"the adapter {name!r} has already been loaded")
        self.known[name] = adapter

    def unload_adapter(self, name: str) -> None:
        if name not in self.known and name not in self.sources:
            raise UnknownAdapterError(f"there is no adapter {name!r}")
        self.known.pop(name, None)

    def register_adapter(self, name: str, source: AdapterSource) -> None:
        self.sources[name] = source

    def remove_adapter(self, name: str) -> None:
        self.unload_adapter(name)
        self.sources.pop(name, None)

    def hold_adapter(self, name: str) -> object:
        if name not in self.known and name in self.sources:
            self.known[name] = self.sources[name].read()
        if name not in self.known:
            raise UnknownAdapterError(f"there is no adapter {name!r}")
        return self.known[name]

    def reset_prefix_cache(self) -> None:
        self.check_health()
        self.num_resets += 1

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return tuple(
            AdapterInfo(
                name=name, rank=each.config.rank, created=1_700_000_001, is_on_device=False
            )
            for name, each in self.known.items()
            if name not in self.sources
        ) + tuple(
            AdapterInfo(
                name=name, rank=each.rank, created=each.created, is_on_device=False,
                is_in_memory=name in self.known,
            )
            for name, each in self.sources.items()
        )  # fmt: skip

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self.open), num_waiting=2, num_pages=8, num_used_pages=2,
            kv_cache_usage=0.25,
            sum_slots_allocated=0, sum_slots_held=0, num_preemptions=3, num_prefix_queries=40,
            num_prefix_hits=10, num_prompt_tokens=50, num_generated_tokens=60, num_steps=70,
            num_finished=0, num_aborted=0, num_failed=0,
            max_loras=4, running_adapters=("x", "y"), waiting_adapters=("z",), num_adapter_loads=5,
        )  # fmt: skip

    def check_health(self) -> None:
        if self.closed:
            raise EngineClosedError("draining")

    async def close(self, drain_s: float = 0.0) -> None:
        self.closed = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while self.open and loop.time() < deadline:
            await asyncio.sleep(0.01)
        for request_id in list(self.open):
            self.abort(request_id)


def _finish(
    reason: FinishReason, *, stop_reason: int | str | None = None, error: str | None = None
) -> Finish:
    return Finish(
        reason=reason,
        stop_reason=stop_reason,
        error=error,
        num_prompt_tokens=0,
        num_output_tokens=0,
        num_cached_tokens=1,
        queue_s=0.25,
    )


ERROR = _finish(FinishReason.ERROR, error="secret: the device is on fire")
STOP = _finish(FinishReason.STOP)
