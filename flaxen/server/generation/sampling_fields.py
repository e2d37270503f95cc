"""Converts the common fields of a body to SamplingParams, within the server's limits.

Knows: which fields are equal on both sides, and each limit. Deliberately does not know prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.protocol import FieldError, SamplingParams
from flaxen.server.context import Context
from flaxen.server.errors import invalid, wrong_field
from flaxen.server.generation.bodies import CommonBody, StreamOptions
from flaxen.server.schema import must_be, shorten

# Fields with the same name and meaning in SamplingParams.
_SAME = ("n", "temperature", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty",
         "repetition_penalty", "stop", "bad_words", "min_tokens", "stop_token_ids", "ignore_eos",
         "allowed_token_ids", "include_stop_str_in_output", "skip_special_tokens",
         "logprob_token_ids")  # fmt: skip


def sampling_params(
    common: CommonBody,
    context: Context,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """Returns the sampling parameters; `max_tokens` is already limited by the model's length.

    Raises:
      ApiError: 400, a value is out of range or above the server's limit.
    """
    config, vocab_size = context.config, context.engine.info.vocab_size
    if common.n is not None and common.n > config.max_n:
        raise must_be("n", f"at most {config.max_n} on this server", common.n)
    if common.stop is not None and len(common.stop) > config.max_stop:
        raise invalid(
            f"stop must hold at most {config.max_stop} strings on this server, "
            f"got {len(common.stop)}",
            "stop",
        )
    n = 1 if common.n is None else common.n
    if common.best_of is not None and common.best_of != n:
        raise invalid(
            f"best_of must equal n ({n}), got {shorten(common.best_of)}: choosing among more is "
            "not supported",
            "best_of",
        )
    values: dict[str, Any] = {name: getattr(common, name) for name in (*_SAME, "top_k")}
    for name in ("stop_token_ids", "allowed_token_ids"):
        if values[name]:
            check_token_ids(values[name], vocab_size, name)
            values[name] = tuple(
                dict.fromkeys(values[name])
            )  # a client may repeat an id a million times
    if values["logprob_token_ids"]:
        if logprobs is None:
            raise invalid("logprob_token_ids needs logprobs", "logprob_token_ids")
        check_token_ids(values["logprob_token_ids"], vocab_size, "logprob_token_ids")
    values["logit_bias"] = _logit_bias(common.logit_bias, vocab_size)
    given = {name: value for name, value in values.items() if value is not None}
    sampling: dict[str, Any] = {
        **context.engine.info.default_sampling,
        **given,
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
    }
    if "top_k" in sampling:
        # A larger value also keeps all tokens.
        sampling["top_k"] = min(sampling["top_k"], vocab_size)
    try:
        return SamplingParams(**sampling)
    except FieldError as error:
        raise wrong_field(error, {}) from None


def check_token_ids(token_ids: Sequence[int], vocab_size: int, where: str) -> None:
    """Raises a 400 if an id is outside the vocabulary."""
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        return
    wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
    raise invalid(
        f"{where} must hold token ids in [0, {vocab_size - 1}], got {shorten(wrong)}, which is out "
        "of vocabulary",
        where,
    )


def check_logprobs(count: int | None, name: str, context: Context) -> None:
    """Raises a 400 if more top logprobs are requested than allowed."""
    limit = min(context.config.max_logprobs, context.engine.info.max_logprobs)
    if count is not None and not 0 <= count <= limit:
        raise must_be(name, f"in [0, {limit}] on this server", count)


def stream_options(common: CommonBody, *, force_usage: bool = False) -> StreamOptions:
    """Returns the stream options, after checking the fields that they depend on.

    Args:
      common: the body.
      force_usage: put the usage into every chunk, whatever is asked for, as vLLM's option does.

    Raises:
      ApiError: 400, there are options without stream=true.
    """
    options = common.stream_options
    if options is not None and not common.stream:
        raise invalid("stream_options needs stream=true: remove it", "stream_options")
    if force_usage:
        return StreamOptions(include_usage=True, continuous_usage_stats=True)
    if options is None:
        return StreamOptions()
    # Asking for the usage of every chunk asks for usage, unless the client says otherwise.
    included = options.include_usage
    if included is None:
        included = options.continuous_usage_stats
    continuous = bool(included and options.continuous_usage_stats)
    return StreamOptions(include_usage=included, continuous_usage_stats=continuous)


def _logit_bias(biases: Mapping[str, float] | None, vocab_size: int) -> dict[int, float] | None:
    if not biases:
        return None
    wrong = [key for key in biases if not _is_token_id(key, vocab_size)]
    if wrong:
        raise invalid(
            f"logit_bias must map token ids in [0, {vocab_size - 1}], as strings, because the "
            f"vocabulary has {vocab_size} tokens; got the keys {shorten(wrong)}",
            "logit_bias",
        )
    return {int(key): bias for key, bias in biases.items()}


def _is_token_id(key: str, vocab_size: int) -> bool:
    # At most 10 digits: int() is slow for very long strings, and no vocabulary is so large.
    return key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < vocab_size
