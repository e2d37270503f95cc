"""Executors for tests: one whose tokens are computed by hand, and one that breaks when told to."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxen.engine.core import Engine
from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import (
    AdapterWeights,
    ModelInfo,
    Request,
    SamplingParams,
    TokenEvent,
    TokenLogprobs,
)
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor, RowFailure, StepResult
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import Sequence
from flaxen.scheduling.step_grammars import has_grammar
from flaxen.text.tokenizer import Tokenizer
from tests.engine.fake_memory import FakeMemory
from tests.scheduling.groups import full

VOCAB_SIZE = 300
EOS_ID = 2
POISON = 299  # a sequence that holds it fails, as one whose hidden state is NaN
SMALL = EngineConfig(
    max_model_len=64,
    groups=full(24),
    page_size=4,
    max_num_seqs=8,
    max_num_batched_tokens=16,
    max_waiting=8,
)


class FakeExecutor(Executor):
    """The token after t is t + 1, modulo the vocabulary; its log-probability is -t.

    With an adapter of alpha a it is t + 1 + a.

    In place of keys it keeps token ids in the pages. Each step must find its sequence's own tokens
    in its own pages, and every row loaded before it is used.
    """

    vocab_size = VOCAB_SIZE

    def __init__(
        self,
        config: EngineConfig = SMALL,
        poison: int | None = POISON,
        dead_end: int | None = None,  # after it, no token may be sampled
    ) -> None:
        self._config, self._poison, self._dead_end = config, poison, dead_end
        self.num_resets, self.num_checks = 0, 0
        self._step = 1
        self.reset()

    def reset(self) -> None:
        self._rows: dict[int, list[int]] = {}
        self.adapter_slots: dict[int, AdapterWeights] = {}
        self._memory = FakeMemory(self._config)
        self.num_resets += 1

    def row_settings(self, request: Request) -> SamplingParams:
        self.num_checks += 1
        if "unsupported" in request.sampling.bad_words:
            raise ValueError("a row can't hold these bad words")
        return request.sampling

    def load(self, sequence: Sequence, row: int) -> None:
        assert sequence.row_settings is sequence.sampling, "not what row_settings returned"
        self._rows[row] = list(sequence.tokens)
        for span in sequence.prompt_embeds:  # a token's embedding is its id
            self._rows[row][span.start : span.end] = [int(value) for (value,) in span.values]

    def check_inputs(self, request: Request) -> None:
        if any(np.shape(span.values)[1] != 1 for span in request.prompt_embeds):
            raise ValueError("the fake's embeddings are token ids")

    def hidden_states(self, plan: StepPlan, handle: Any, item: Scheduled) -> np.ndarray:
        tokens = self._rows[item.row][item.start : item.start + item.num_tokens]
        return np.array([[token, 1] for token in tokens], np.float32)

    def check_adapter(self, adapter: AdapterWeights) -> None:
        if self._config.lora is None or adapter.config.rank > self._config.lora.max_lora_rank:
            raise ValueError("no slot could hold this adapter")

    def content_key(self, adapter: AdapterWeights) -> str:
        return str(adapter.config)

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        self.adapter_slots[slot] = adapter

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        self.adapter_slots = dict(enumerate(stack or ()))
        return 1

    def sleep(self, *, keeps_weights: bool) -> None:
        del self._memory, self._rows  # whoever uses them before `reset` fails
        if not keeps_weights:
            del self._step

    def wake_weights(self) -> None: ...

    def set_params(self, params: Any, *, are_owned: bool) -> None:
        if not isinstance(params, int):
            raise ValueError("the fake's parameters are what it adds to a token")
        self._step = params

    def read_pages(self, pages: Items[Items[int]]) -> Callable[[], list[np.ndarray]]:
        return self._memory.read_pages(pages)

    def write_pages(self, pages: Items[Items[int]], contents: Items[Items[np.ndarray]]) -> None:
        self._memory.write_pages(pages, contents)

    def dispatch(self, plan: StepPlan) -> StepResult:
        for item in plan.items:
            computed = self._known_and_drafts(item)[: item.start + item.num_tokens]
            self._memory.write(item.sequence.pages, item.start, computed)
        for item in plan.items:
            expected = self._known_and_drafts(item)[: item.start + item.num_tokens]
            self._memory.check(item.sequence.pages, item.start, expected)
        result = StepResult(tokens=[], failures=[], logprobs=[])
        if not has_grammar(plan.items):
            num_lines = sum(1 + item.num_drafts for item in plan.items)
            self._sample_all(plan, result, [None] * num_lines)
        return result

    def sample(self, plan: StepPlan, handle: StepResult, bitmasks: np.ndarray) -> None:
        assert has_grammar(plan.items)
        assert not handle.tokens, "it has sampled"
        self._sample_all(plan, handle, list(bitmasks))

    def _sample_all(
        self, plan: StepPlan, result: StepResult, bitmasks: list[np.ndarray | None]
    ) -> None:
        first = 0
        for item in plan.items:
            end = first + 1 + item.num_drafts
            tokens, failure = self._sample(item, bitmasks[first:end])
            first = end
            wanted = item.sequence.sampling.logprobs
            result.tokens.append(tokens)
            result.failures.append(failure)
            result.logprobs.append(
                [] if wanted is None else [by_hand(token, wanted) for token in tokens]
            )

    def _known_and_drafts(self, item: Scheduled) -> list[int]:
        return [*self._rows[item.row], *item.sequence.draft_token_ids[: item.num_drafts]]

    def _sample(
        self, item: Scheduled, bitmasks: list[np.ndarray | None]
    ) -> tuple[list[int], RowFailure | None]:
        known, expected = self._rows[item.row], self._known_and_drafts(item)
        end = item.start + item.num_tokens
        if not item.samples:
            return [], None
        assert end == len(expected), "sampled, but not after the last token"
        step, tokens = self._distance(item.sequence), list[int]()
        drafts = (*expected[len(known) :], None)
        for draft, bitmask in zip(drafts, bitmasks, strict=True):
            last, is_poisoned = known[-1], self._poison in known
            token = self._allowed(bitmask, (last + step) % VOCAB_SIZE)
            known.append(last if token is None else token)
            if last == self._dead_end or token is None:
                return tokens, RowFailure.NO_TOKEN_ALLOWED
            if is_poisoned:
                return tokens, RowFailure.NOT_FINITE
            tokens.append(known[-1])
            if draft != known[-1]:
                break
        return tokens, None

    def _allowed(self, bitmask: np.ndarray | None, token_id: int) -> int | None:
        """The token itself, or the next one that the bitmask allows; None allows all."""
        if bitmask is None:
            return token_id
        for candidate in range(token_id, token_id + VOCAB_SIZE):
            word, bit = divmod(candidate % VOCAB_SIZE, 32)
            if int(bitmask[word]) >> bit & 1:
                return candidate % VOCAB_SIZE
        return None

    def _distance(self, sequence: Sequence) -> int:
        """From a token to the one after it."""
        if sequence.adapter is None:
            return self._step
        weights = self.adapter_slots[sequence.adapter_slot]
        expected = sequence.adapter.weights  # None where another's stack was given
        assert expected in (None, weights), "the slot holds another adapter"
        return self._step + int(weights.config.alpha)

    def fetch(self, plan: StepPlan, handle: StepResult) -> StepResult:
        assert len(handle.tokens) == len(plan.items), "fetched before it sampled"
        return handle

    def prompt_logprobs(
        self, plan: StepPlan, handle: Any, item: Scheduled, targets: list[int], num_top: int
    ) -> list[TokenLogprobs]:
        return [by_hand(token, num_top) for token in targets]


def by_hand(token_id: int, num_top: int) -> TokenLogprobs:
    """The log-probabilities that FakeExecutor reports of a token."""
    top = tuple((token_id + i, -float(token_id + i)) for i in range(num_top))
    return TokenLogprobs(token_id=token_id, logprob=-float(token_id), rank=1, top=top)


class FaultyExecutor(Executor):
    """Another executor, whose calls raise where `breaks` says so, given the call's name and count.

    A dispatch breaks before the inner one is told of the step, a fetch after it has run.
    """

    def __init__(
        self,
        inner: Executor,
        breaks: Callable[[str, int], bool],
        error: BaseException | None = None,
    ) -> None:
        self.vocab_size = inner.vocab_size
        self.counts = dict.fromkeys(
            ("load", "load_adapter", "dispatch", "sample", "fetch", "prompt_logprobs", "reset"), 0
        )
        self._inner, self._breaks = inner, breaks
        self._error = error or RuntimeError("the device is on fire")

    def _call(self, name: str) -> None:
        self.counts[name] += 1
        if self._breaks(name, self.counts[name]):
            raise self._error

    def row_settings(self, request: Request) -> Any:
        return self._inner.row_settings(request)

    def check_inputs(self, request: Request) -> None:
        self._inner.check_inputs(request)

    def hidden_states(self, plan: StepPlan, handle: Any, item: Scheduled) -> np.ndarray:
        return self._inner.hidden_states(plan, handle, item)

    def load(self, sequence: Sequence, row: int) -> None:
        self._call("load")
        self._inner.load(sequence, row)

    def check_adapter(self, adapter: AdapterWeights) -> None:
        self._inner.check_adapter(adapter)

    def content_key(self, adapter: AdapterWeights) -> str:
        return self._inner.content_key(adapter)

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        self._call("load_adapter")
        self._inner.load_adapter(slot, adapter)

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        return self._inner.set_adapter_stack(stack, scales)

    def set_params(self, params: Any, *, are_owned: bool) -> None:
        self._inner.set_params(params, are_owned=are_owned)

    def sleep(self, *, keeps_weights: bool) -> None:
        self._inner.sleep(keeps_weights=keeps_weights)

    def wake_weights(self) -> None:
        self._inner.wake_weights()

    def read_pages(self, pages: Items[Items[int]]) -> Callable[[], list[np.ndarray]]:
        return self._inner.read_pages(pages)

    def write_pages(self, pages: Items[Items[int]], contents: Items[Items[np.ndarray]]) -> None:
        self._inner.write_pages(pages, contents)

    def dispatch(self, plan: StepPlan) -> Any:
        self._call("dispatch")
        return self._inner.dispatch(plan)

    def sample(self, plan: StepPlan, handle: Any, bitmasks: np.ndarray) -> None:
        self._call("sample")
        self._inner.sample(plan, handle, bitmasks)

    def fetch(self, plan: StepPlan, handle: Any) -> StepResult:
        self._call("fetch")
        return self._inner.fetch(plan, handle)

    def prompt_logprobs(
        self, plan: StepPlan, handle: Any, item: Scheduled, targets: list[int], num_top: int
    ) -> list[TokenLogprobs]:
        self._call("prompt_logprobs")
        return self._inner.prompt_logprobs(plan, handle, item, targets, num_top)

    def reset(self) -> None:
        self._call("reset")
        self._inner.reset()


@dataclass
class FakeClock:
    """Seconds that pass only when told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ends:
    """How each sequence ended, (request id, index) -> reason, and its tokens; each ends once."""

    reasons: dict[tuple[str, int], str] = field(default_factory=dict)
    errors: dict[tuple[str, int], str | None] = field(default_factory=dict)
    tokens: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def take(self, events: list[TokenEvent]) -> None:
        for event in events:
            key = event.request_id, event.index
            assert key not in self.reasons, f"{key} has ended, and has another event"
            self.tokens.setdefault(key, []).extend(event.token_ids)
            if event.finish is not None:
                self.reasons[key] = str(event.finish.reason)
                self.errors[key] = event.finish.error


def fake_engine(
    config: EngineConfig = SMALL,
    executor: Executor | None = None,
    tokenizer: Tokenizer | None = None,
    **kwargs: Any,
) -> Engine:
    info = ModelInfo(
        name="fake",
        vocab_size=VOCAB_SIZE,
        max_model_len=config.max_model_len,
        max_logprobs=config.max_logprobs,
        eos_token_ids=(EOS_ID,),
        created=0,
    )
    return Engine(config, executor or FakeExecutor(config), info, tokenizer, **kwargs)


def run_out(engine: SteppedEngine, ends: Ends | None = None) -> Ends:
    """Steps until nothing is open; afterwards no page is left."""
    ends = ends or Ends()
    while engine.has_work:
        ends.take(engine.step())
    stats = engine.stats()
    assert (stats.num_used_pages, stats.num_running, stats.num_waiting) == (0, 0, 0)
    return ends


def add(engine: SteppedEngine, request: Request, arrival_s: float | None = None) -> None:
    """Checks a request and queues it."""
    engine.add(engine.check(request), arrival_s)


def sequence_of(
    tokens: list[int],
    num_prompt_tokens: int | None = None,
    words: tuple[tuple[int, ...], ...] = (),
    **sampling: Any,
) -> Sequence:
    """A sequence that no scheduler knows; `words` are its bad words, as `spelled` gives them."""
    sampling["bad_words"] = tuple("".join(map(chr, word)) for word in words)
    num_prompt_tokens = len(tokens) if num_prompt_tokens is None else num_prompt_tokens
    return Sequence(
        request_id="s",
        index=0,
        sampling=SamplingParams(**sampling),
        tokens=list(tokens),
        num_prompt_tokens=num_prompt_tokens,
        seed=sampling.get("seed", 0),
    )


def spelled(words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Bad words as token ids: one a character, its code."""
    return tuple(tuple(map(ord, word)) for word in words)


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic; infinite if something came that can't."""
    expected = probabilities * counts.sum()
    if (counts[expected == 0] > 0).any():
        return float("inf")
    possible = expected > 0
    differences = counts[possible] - expected[possible]
    return float((differences**2 / expected[possible]).sum())
