"""Runs steps through JAX. Every jit, donation and transfer of the engine is here.

Deliberately does not know: when steps are planned, what ends a sequence, texts.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine import step as steps
from flaxen.engine.config import EngineConfig
from flaxen.engine.executor import Executor, StepResult
from flaxen.engine.rows import Rows, empty_rows, has_bias, load_bias, load_row, row_bias, row_settings
from flaxen.engine.sampling import ALL_FORBIDDEN, OK, Sampled, Scores, Wants
from flaxen.engine.scheduler import Scheduled, StepPlan
from flaxen.engine.sequence import Sequence
from flaxen.engine.shapes import Shape, first_shape, smallest_shape, step_shapes
from flaxen.engine.step import StepInput
from flaxen.models.model import Model, Params
from flaxen.protocol import SamplingParams, TokenLogprobs

_SCORE_ROWS = 64  # prompt tokens scored by one call
_ERRORS = {
    ALL_FORBIDDEN: "no token may be sampled: allowed_token_ids, bad_words, logit_bias and "
    "min_tokens together forbid all of them",
}
_NOT_FINITE = "the model's output is not finite (NaN or infinity) for this sequence"


@dataclass(kw_only=True, slots=True)
class _Handle:
    sampled: Sampled
    hidden: jax.Array  # [T, D]
    starts: list[int]  # of each item's tokens in the step
    wants_logprobs: bool


class JaxExecutor(Executor):
    """Holds the parameters, the KV pool and the rows; compiles the steps.

    The first shape is compiled by the constructor, so that any step can be run; the others in the
    background, and are used as they become ready.

    Args:
      model: the model.
      params: its parameters, on the device; shared, never changed or donated.
      config: the sizes.
      eos_ids: end-of-sequence ids.
      cache_dtype: of the KV pool.
      bad_word_ids: gives the token sequences of a request's bad words.
      on_compiled: called with (shapes ready, shapes in all) after each.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        config: EngineConfig,
        *,
        eos_ids: tuple[int, ...],
        cache_dtype: jnp.dtype,
        bad_word_ids: Callable[[tuple[str, ...]], tuple[tuple[int, ...], ...]],
        on_compiled: Callable[[int, int], None] | None = None,
    ) -> None:
        self.vocab_size = model.vocab_size
        self._model, self._params, self._config = model, params, config
        self._eos_ids, self._bad_word_ids = eos_ids, bad_word_ids
        self._cache_dtype = cache_dtype
        self._num_top = min(config.max_logprobs, model.vocab_size)
        self._pages_per_seq = -(-config.max_model_len // config.page_size)
        self._load_row = jax.jit(load_row, donate_argnums=(0, 1))
        self._load_bias = jax.jit(load_bias, donate_argnums=0)
        self._score = jax.jit(functools.partial(steps.score_prompt, model, self._num_top))
        self.reset()

        self._forward: dict[Shape, Any] = {}  # compiled
        self._draw: dict[int, Any] = {}  # compiled, by num_seqs
        self._shapes = step_shapes(config)
        self._on_compiled = on_compiled
        self._stopped = threading.Event()
        self._compile_error: Exception | None = None
        first = first_shape(self._shapes)
        self._compile(first)
        rest = [shape for shape in self._shapes if shape != first]
        self._compiler = threading.Thread(target=self._compile_all, args=(rest,), daemon=True)
        self._compiler.start()
        # A thread that compiles while the interpreter ends takes the process down with it.
        weakref.finalize(self, _stop, self._stopped, self._compiler)

    def wait_compiled(self) -> None:
        """Returns when every shape is ready.

        Raises:
          RuntimeError: one could not be compiled; the engine goes on with the others.
        """
        self._compiler.join()
        if self._compile_error is not None:
            raise RuntimeError("a step shape could not be compiled") from self._compile_error

    def close(self) -> None:
        _stop(self._stopped, self._compiler)

    def reset(self) -> None:
        config = self._config

        def empty() -> tuple[Any, Rows]:
            cache = steps.empty_cache(
                self._model, config.num_pages, config.page_size, self._cache_dtype
            )
            return cache, empty_rows(config.max_num_seqs, config.max_model_len, self.vocab_size)

        # One call, not one an array: the memory is filled while the host goes on to compile.
        self._cache, rows = jax.jit(empty)()
        self._tokens = rows.tokens
        self._rows = rows._replace(tokens=jnp.zeros((0, 0), jnp.int32))

    @property
    def max_step_tokens(self) -> int:
        return max(shape.num_tokens for shape in self._forward)

    def check(self, sequence: Sequence) -> None:
        row_settings(sequence, self._eos_ids, self._bad_word_ids(sequence.sampling.bad_words))

    def load(self, sequence: Sequence, row: int) -> None:
        bad_words = self._bad_word_ids(sequence.sampling.bad_words)
        new = row_settings(sequence, self._eos_ids, bad_words)
        known = np.zeros(self._config.max_model_len, np.int32)
        known[: len(sequence.tokens)] = sequence.tokens
        index = np.int32(row)
        settings, self._tokens = self._load_row(
            self._rows.settings, self._tokens, index, new, known
        )
        bias = self._rows.bias
        if has_bias(sequence):
            bias = self._load_bias(bias, index, row_bias(sequence, self.vocab_size))
        self._rows = self._rows._replace(settings=settings, bias=bias)

    def dispatch(self, plan: StepPlan) -> _Handle:
        num_tokens = sum(item.num_tokens for item in plan.items)
        shape = smallest_shape(list(self._forward), num_tokens, len(plan.items))
        packed = np.zeros((shape.num_seqs, 4 + self._pages_per_seq), np.int32)
        packed[:, 0] = self._config.max_num_seqs  # padding: no row
        starts, position = [], 0
        for line, item in enumerate(plan.items):
            pages = item.sequence.pages
            packed[line, :4] = item.row, item.start, item.num_tokens, item.samples
            packed[line, 4 : 4 + len(pages)] = pages
            starts.append(position)
            position += item.num_tokens
        wants = _wants([item.sequence.sampling for item in plan.items if item.samples])
        step = StepInput(jnp.asarray(packed))
        last, hidden, self._cache = self._forward[shape](
            self._params, self._cache, self._tokens, step
        )
        self._tokens, sampled = self._draw[shape.num_seqs](
            self._params, self._rows, self._tokens, last, step, wants
        )
        return _Handle(
            sampled=sampled, hidden=hidden, starts=starts, wants_logprobs=bool(wants.logprobs)
        )

    def fetch(self, plan: StepPlan, handle: _Handle) -> StepResult:
        tokens = np.asarray(handle.sampled.tokens).tolist()
        status = np.asarray(handle.sampled.status).tolist()
        scores = _to_host(handle.sampled.scores) if handle.wants_logprobs else None
        result = StepResult(tokens=[], errors=[], logprobs=[])
        for line, item in enumerate(plan.items):
            ok = item.samples and status[line] == OK
            failed = item.samples and not ok
            result.tokens.append(tokens[line] if ok else None)
            result.errors.append(_ERRORS.get(status[line], _NOT_FINITE) if failed else None)
            wanted = item.sequence.sampling.logprobs
            result.logprobs.append(
                _token_logprobs(scores, line, tokens[line], wanted)
                if ok and scores is not None and wanted is not None
                else None
            )
        return result

    def score_prompt(
        self, plan: StepPlan, handle: _Handle, item: Scheduled, targets: Ids[int], num_top: int
    ) -> list[TokenLogprobs]:
        start = handle.starts[plan.items.index(item)]
        hidden = np.asarray(handle.hidden[start : start + len(targets)])
        found = []
        for i in range(0, len(targets), _SCORE_ROWS):
            chunk = np.zeros((_SCORE_ROWS, hidden.shape[1]), hidden.dtype)
            ids = np.zeros(_SCORE_ROWS, np.int32)
            num = len(targets[i : i + _SCORE_ROWS])
            chunk[:num], ids[:num] = hidden[i : i + num], targets[i : i + num]
            scores = _to_host(self._score(self._params, chunk, ids))
            found += [_token_logprobs(scores, n, int(ids[n]), num_top) for n in range(num)]
        return found

    def _compile_all(self, shapes: list[Shape]) -> None:
        try:
            for shape in shapes:
                if self._stopped.is_set():
                    return
                self._compile(shape)
        except Exception as error:  # any: it must reach wait_compiled, not the thread's end
            self._compile_error = error

    def _compile(self, shape: Shape) -> None:
        def spec(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype)

        params, rows = jax.tree.map(spec, (self._params, self._rows))
        cache, tokens = jax.tree.map(spec, (self._cache, self._tokens))
        packed = (shape.num_seqs, 4 + self._pages_per_seq)
        step = StepInput(jax.ShapeDtypeStruct(packed, jnp.int32))  # type: ignore[arg-type]
        forward = jax.jit(
            functools.partial(steps.forward, self._model, num_tokens=shape.num_tokens),
            donate_argnums=1,
        )
        lowered = forward.lower(params, cache, tokens, step)
        if shape.num_seqs not in self._draw:
            draw = jax.jit(
                functools.partial(steps.draw, self._model, self._num_top), donate_argnums=2
            )
            last = jax.eval_shape(forward, params, cache, tokens, step)[0]
            wants = jax.tree.map(spec, _wants([]))
            self._draw[shape.num_seqs] = draw.lower(
                params, rows, tokens, last, step, wants
            ).compile()
        self._forward[shape] = lowered.compile()
        if self._on_compiled is not None:
            self._on_compiled(len(self._forward), len(self._shapes))


def _stop(stopped: threading.Event, compiler: threading.Thread) -> None:
    stopped.set()
    compiler.join()


def _wants(all_sampling: list[SamplingParams]) -> Wants:
    adjust = random = filters = logprobs = False
    for s in all_sampling:
        adjust |= bool(
            s.logit_bias
            or s.allowed_token_ids is not None
            or s.bad_words
            or s.min_tokens
            or s.presence_penalty
            or s.frequency_penalty
            or s.repetition_penalty != 1
        )
        random |= s.temperature > 0
        filters |= s.top_k > 0 or s.top_p < 1 or s.min_p > 0
        logprobs |= s.logprobs is not None
    return Wants(*map(np.bool_, (adjust, random, filters, logprobs)))  # type: ignore[arg-type]


def _to_host(scores: Scores) -> tuple[list[Any], ...]:
    return tuple(np.asarray(field).tolist() for field in scores)


def _token_logprobs(
    scores: tuple[list[Any], ...], line: int, token_id: int, num_top: int
) -> TokenLogprobs:
    logprob, rank, top_ids, top_logprobs = (field[line] for field in scores)
    return TokenLogprobs(
        token_id=token_id,
        logprob=logprob,
        rank=rank,
        top=tuple(zip(top_ids[:num_top], top_logprobs[:num_top], strict=True)),
    )
