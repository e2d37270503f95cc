"""Checks whether a request can be served. Deliberately does not know the engine's state."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral

from flaxen.engine.validate_inputs import validate_inputs
from flaxen.protocol import FieldError, ModelInfo, Request
from flaxen.scheduling.config import MAX_LOGIT_BIAS, MAX_LOGPROB_IDS, EngineConfig

MAX_WORD_CHARS = 1000  # the most characters of a stop string or bad word
MAX_BAD_WORDS = 128


def validate(
    request: Request, config: EngineConfig, info: ModelInfo, *, has_tokenizer: bool
) -> None:
    """Checks a request against the model and the engine's limits.

    Args:
      request: the request.
      config: the engine's configuration.
      info: the model's.
      has_tokenizer: whether the engine has a tokenizer, which stop strings need.

    Raises:
      FieldError: the request can never be served; the message says which value is wrong and what is
          allowed.
    """
    validate_inputs(request)
    sampling = request.sampling
    num_prompt = len(request.prompt_token_ids)
    if request.pooling is not None:
        if num_prompt > config.max_model_len:
            raise FieldError(
                "prompt_token_ids",
                f"the prompt has {num_prompt} tokens, and the model takes {config.max_model_len}. "
                "Please reduce the length of the input prompt, or cut it with "
                "truncate_prompt_tokens (-1 is the model's length)",
            )
    elif num_prompt >= config.max_model_len:
        raise FieldError(
            "prompt_token_ids",
            f"the prompt has {num_prompt} tokens, and the model takes {config.max_model_len}, "
            f"prompt and output together: shorten it to at most {config.max_model_len - 1}",
        )
    if sampling.min_tokens > config.max_model_len - num_prompt:
        raise FieldError(
            "min_tokens",
            f"min_tokens is {sampling.min_tokens}, and a prompt of {num_prompt} tokens leaves "
            f"room for {config.max_model_len - num_prompt}",
        )
    capacity = config.max_num_seqs + config.max_waiting
    if sampling.n > capacity:
        raise FieldError(
            "n", f"n must be at most {capacity}, all that run or wait, got {sampling.n}"
        )
    if sampling.stop and not has_tokenizer:
        raise FieldError("stop", "stop strings need a tokenizer, and this engine has none")
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(sampling, name)
        if asked is not None and asked > config.max_logprobs:
            raise FieldError(name, f"{name} must be at most {config.max_logprobs}, got {asked}")
    most = min(config.max_logprobs, info.vocab_size, MAX_LOGPROB_IDS)
    if len(sampling.logprob_token_ids) > most:
        raise FieldError(
            "logprob_token_ids",
            f"logprob_token_ids must hold at most {most} ids, got "
            f"{len(sampling.logprob_token_ids)}",
        )
    for name in ("stop", "bad_words"):
        for word in getattr(sampling, name):
            if len(word) > MAX_WORD_CHARS:
                raise FieldError(
                    name,
                    f"a string of {name} has {len(word)} characters, and at most {MAX_WORD_CHARS} "
                    "are supported",
                )
    for name, most in (("bad_words", MAX_BAD_WORDS), ("logit_bias", MAX_LOGIT_BIAS)):
        if len(getattr(sampling, name) or ()) > most:
            raise FieldError(
                name,
                f"{name} has {len(getattr(sampling, name))} entries, and at most {most} are "
                "supported",
            )
    predicted = request.prediction_token_ids
    if len(predicted) > config.max_model_len:
        raise FieldError(
            "prediction_token_ids",
            f"the prediction has {len(predicted)} tokens, and the model takes "
            f"{config.max_model_len}: shorten it",
        )
    _check_ids("prompt_token_ids", "the prompt", request.prompt_token_ids, info.vocab_size)
    _check_ids("prediction_token_ids", "the prediction", predicted, info.vocab_size)
    for name in ("stop_token_ids", "allowed_token_ids", "logit_bias", "logprob_token_ids"):
        _check_ids(name, name, getattr(sampling, name) or (), info.vocab_size)


def _check_ids(field: str, name: str, token_ids: Collection[int], vocab_size: int) -> None:
    for kind in set(map(type, token_ids)):  # a prompt is long, and has ids of one type
        if not issubclass(kind, Integral):
            raise FieldError(field, f"{name} must hold whole numbers, and holds a {kind.__name__}")
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise FieldError(
                field,
                f"{name} holds token id {token_id}, outside the vocabulary of {vocab_size} tokens",
            )
