"""The per-sequence state on the device: one row for each running sequence, in fixed-size arrays.

Deliberately does not know: sampling, pages, the scheduler.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.protocol import FieldError, SamplingParams
from flaxen.scheduling.config import MAX_LOGIT_BIAS, MAX_LOGPROB_IDS
from flaxen.structured.states import num_mask_words

MAX_STOP_IDS = 64  # including EOS ids
MAX_BAD_WORDS = 128  # token sequences
MAX_BAD_WORD_TOKENS = 16
NO_TOKEN = -1
# Beyond these limits a divisor no longer changes any sample, and float32 nears its range.
_MIN_DIVISOR, _MAX_DIVISOR = 1e-30, 1e30


class RowSettings(NamedTuple):
    """The sampling settings of R rows, or of one row without the leading axis."""

    temperature: jax.Array  # [R] float32; 0 is greedy
    top_k: jax.Array  # [R] int32; 0 keeps all
    top_p: jax.Array  # [R] float32
    min_p: jax.Array  # [R] float32
    presence_penalty: jax.Array  # [R] float32
    frequency_penalty: jax.Array  # [R] float32
    repetition_penalty: jax.Array  # [R] float32
    seed: jax.Array  # [R, 2] uint32, low and high half
    num_prompt_tokens: jax.Array  # [R] int32
    min_length: jax.Array  # [R] int32, the length before which no stop id is sampled
    stop_ids: jax.Array  # [R, MAX_STOP_IDS] int32, padded with NO_TOKEN
    bad_words: jax.Array  # [R, MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS] int32, right-aligned
    has_bias: jax.Array  # [R] bool
    logprob_ids: jax.Array  # [R, MAX_LOGPROB_IDS] int32, padded with NO_TOKEN


class RowBias(NamedTuple):
    """Logit biases of rows with has_bias, in a thirtieth of the memory of [R, V]."""

    ids: jax.Array  # [R, MAX_LOGIT_BIAS] int32, padded with NO_TOKEN
    values: jax.Array  # [R, MAX_LOGIT_BIAS] float32, added to the logits of `ids`
    allowed: jax.Array  # [R, ceil(V / 32)] uint32: bit v % 32 of number v // 32 allows token v


def allows(bitmask: jax.Array, vocab_size: int) -> jax.Array:
    """Whether each row may sample each token, bool [R, V], from uint32 [R, ceil(V / 32)]."""
    token_ids = jnp.arange(vocab_size, dtype=jnp.uint32)
    bits = bitmask[:, token_ids // 32] >> (token_ids % 32)[None]
    return (bits & 1).astype(bool)


class Rows(NamedTuple):
    """All rows. `tokens` has every known token of a sequence, prompt and output."""

    settings: RowSettings
    bias: RowBias
    tokens: jax.Array  # [R, max length] int32


def empty_rows(num_rows: int, max_len: int, vocab_size: int) -> Rows:
    """Makes rows without sequences."""

    def zeros(dtype: jnp.dtype, *shape: int) -> jax.Array:
        return jnp.zeros((num_rows, *shape), dtype)

    i32, f32 = jnp.dtype("int32"), jnp.dtype("float32")
    settings = RowSettings(
        temperature=zeros(f32),
        top_k=zeros(i32),
        top_p=zeros(f32),
        min_p=zeros(f32),
        presence_penalty=zeros(f32),
        frequency_penalty=zeros(f32),
        repetition_penalty=zeros(f32),
        seed=zeros(jnp.dtype("uint32"), 2),
        num_prompt_tokens=zeros(i32),
        min_length=zeros(i32),
        stop_ids=zeros(i32, MAX_STOP_IDS),
        bad_words=zeros(i32, MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS),
        has_bias=zeros(jnp.dtype("bool")),
        logprob_ids=zeros(i32, MAX_LOGPROB_IDS),
    )
    bias = RowBias(
        zeros(i32, MAX_LOGIT_BIAS),
        zeros(f32, MAX_LOGIT_BIAS),
        zeros(jnp.dtype("uint32"), num_mask_words(vocab_size)),
    )
    return Rows(settings, bias, zeros(i32, max_len))


def load_row(
    settings: RowSettings, tokens: jax.Array, row: jax.Array, new: RowSettings, known: jax.Array
) -> tuple[RowSettings, jax.Array]:
    """Writes one row's settings and known tokens [max length]. `settings`, `tokens` are donated."""
    updated = jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one), settings, new)
    return updated, tokens.at[row].set(known)


def load_bias(bias: RowBias, row: jax.Array, new: RowBias) -> RowBias:
    """Writes one row's bias. `bias` is donated."""
    updated: RowBias = jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one), bias, new)
    return updated


def row_settings(
    sampling: SamplingParams,
    num_prompt_tokens: int,
    bad_words: tuple[tuple[int, ...], ...],
    eos_ids: tuple[int, ...],
) -> RowSettings:
    """The row settings of a request's sequences; `with_seed` adds each sequence's seed.

    Args:
      sampling: the request's sampling parameters.
      num_prompt_tokens: the length of its prompt.
      bad_words: the token sequences of its bad words.
      eos_ids: end-of-sequence ids.

    Returns:
      NumPy values on the host. Requests may share arrays, so they must not be changed.

    Raises:
      FieldError: there are more stop ids or bad words, or longer ones, than a row holds.
    """
    ids = sampling.stop_token_ids if sampling.ignore_eos else (*eos_ids, *sampling.stop_token_ids)
    ids = tuple(dict.fromkeys(ids))
    if len(ids) > MAX_STOP_IDS:
        raise FieldError(
            "stop_token_ids",
            f"stop_token_ids holds {len(ids)} ids with the end-of-sequence ids, and at most "
            f"{MAX_STOP_IDS} are supported",
        )
    stop_ids = np.full(MAX_STOP_IDS, NO_TOKEN, np.int32)
    stop_ids[: len(ids)] = ids
    if len(bad_words) > MAX_BAD_WORDS:
        raise FieldError(
            "bad_words",
            f"bad_words gives {len(bad_words)} token sequences, and at most {MAX_BAD_WORDS} are "
            "supported",
        )
    logprob_ids = np.full(MAX_LOGPROB_IDS, NO_TOKEN, np.int32)
    logprob_ids[: len(sampling.logprob_token_ids)] = sampling.logprob_token_ids
    words = _no_bad_words()
    if bad_words:
        words = words.copy()
    for slot, word in enumerate(bad_words):
        if len(word) > MAX_BAD_WORD_TOKENS:
            raise FieldError(
                "bad_words",
                f"one of bad_words has {len(word)} tokens, and at most {MAX_BAD_WORD_TOKENS} are "
                "supported",
            )
        words[slot, MAX_BAD_WORD_TOKENS - len(word) :] = word
    values: dict[str, Any] = {
        "temperature": _divisor(sampling.temperature) if sampling.temperature else np.float32(0),
        "top_k": np.int32(min(max(sampling.top_k, 0), np.iinfo(np.int32).max)),
        "top_p": np.float32(sampling.top_p),
        "min_p": np.float32(sampling.min_p),
        "presence_penalty": np.float32(sampling.presence_penalty),
        "frequency_penalty": np.float32(sampling.frequency_penalty),
        "repetition_penalty": _divisor(sampling.repetition_penalty),
        "seed": np.zeros(2, np.uint32),
        "num_prompt_tokens": np.int32(num_prompt_tokens),
        "min_length": np.int32(num_prompt_tokens + sampling.min_tokens),
        "stop_ids": stop_ids,
        "bad_words": words,
        "has_bias": np.bool_(_has_bias(sampling)),
        "logprob_ids": logprob_ids,
    }
    return RowSettings(**values)


@functools.cache
def _no_bad_words() -> np.ndarray:
    """The array for requests without bad words: 8 KB, shared because thousands may wait."""
    return np.full((MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS), NO_TOKEN, np.int32)


def with_seed(settings: RowSettings, seed: int) -> RowSettings:
    """Adds a sequence's seed, which may be any integer; its lowest 64 bits are used."""
    low, high = seed & 0xFFFF_FFFF, seed >> 32 & 0xFFFF_FFFF
    return settings._replace(seed=np.array([low, high], np.uint32))  # type: ignore[arg-type]


def _divisor(value: float) -> np.float32:
    return np.float32(min(max(value, _MIN_DIVISOR), _MAX_DIVISOR))


def _has_bias(sampling: SamplingParams) -> bool:
    return bool(sampling.logit_bias) or sampling.allowed_token_ids is not None


def row_bias(sampling: SamplingParams, vocab_size: int) -> RowBias:
    """The logit bias of a sequence's row, as NumPy arrays on the host."""
    added = sampling.logit_bias or {}
    ids = np.full(MAX_LOGIT_BIAS, NO_TOKEN, np.int32)
    values = np.zeros(MAX_LOGIT_BIAS, np.float32)
    ids[: len(added)], values[: len(added)] = list(added.keys()), list(added.values())
    bits = np.ones(32 * num_mask_words(vocab_size), np.uint8)
    if sampling.allowed_token_ids is not None:
        bits[:] = 0
        bits[list(sampling.allowed_token_ids)] = 1
    allowed = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
    return RowBias(ids, values, allowed)  # type: ignore[arg-type]  # numpy's
