"""The configuration of speculative decoding: vLLM's keys, checked.

Deliberately does not know: files, drafters, JAX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from flaxen.scheduling.config import MAX_SAMPLED

Method = Literal["ngram", "suffix", "draft_model"]
METHODS: tuple[str, ...] = get_args(Method)
_MODEL_KEYS = ("model", "quantization", "max_model_len", "draft_tensor_parallel_size")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "ngram": ("prompt_lookup_min", "prompt_lookup_max"),
    "suffix": (
        "suffix_decoding_max_tree_depth",
        "suffix_decoding_max_cached_requests",
        "suffix_decoding_max_spec_factor",
        "suffix_decoding_min_token_prob",
    ),
    "draft_model": _MODEL_KEYS,
}
_NUM_TOKENS = {"ngram": 15, "suffix": 15, "draft_model": 8}
# Keys of vLLM's that we do not have, and what there is in their place.
_REFUSED = {
    "disable_by_batch_size": "speculation stops by itself where it does not pay",
    "num_speculative_tokens_per_batch_size": "the number of drafts follows what pays",
    "rejection_sample_method": "a draft counts as right if it is the token that is sampled there",
    "draft_sample_method": "a draft model samples with the seed of the request",
    "tensor_parallel_size": "a draft model computes on one device (draft_tensor_parallel_size 1)",
    "revision": "give a model with its revision as a directory",
    "enforce_eager": "the draft model computes as the engine does (--enforce-eager)",
    "kv_cache_dtype": "the draft model has the engine's (--kv-cache-dtype)",
}


@dataclass(frozen=True, kw_only=True)
class SpeculativeConfig:
    """How drafts are proposed. Names are vLLM's; read it with `read_config`.

    Raises:
      ValueError: a value is out of its range.
    """

    method: Method
    num_speculative_tokens: int  # the most draft tokens of a sequence in a step
    prompt_lookup_min: int = 3  # tokens that must match
    prompt_lookup_max: int = 5  # tokens that are compared
    suffix_decoding_max_tree_depth: int = 24  # tokens of a match and what is drafted from it
    suffix_decoding_max_cached_requests: int = 10_000  # ended requests whose outputs are kept
    suffix_decoding_max_spec_factor: float = 1.0  # the most draft tokens for each matching one
    suffix_decoding_min_token_prob: float = 0.1  # as often as it followed the match before
    model: str | None = None  # the draft model
    quantization: str = "auto"  # of its weights, as in EngineArgs
    max_model_len: int | None = None  # longer sequences get no drafts; None: as the engine's
    draft_tensor_parallel_size: int = 1

    def __post_init__(self) -> None:
        _check_range("num_speculative_tokens", self.num_speculative_tokens, 1, MAX_SAMPLED - 1)
        _check_range("prompt_lookup_min", self.prompt_lookup_min, 1)
        _check_range("suffix_decoding_max_tree_depth", self.suffix_decoding_max_tree_depth, 1)
        _check_range("prompt_lookup_max", self.prompt_lookup_max, self.prompt_lookup_min)
        _check_range(
            "suffix_decoding_max_cached_requests", self.suffix_decoding_max_cached_requests, 0
        )
        _check_range("suffix_decoding_max_spec_factor", self.suffix_decoding_max_spec_factor, 0)
        _check_range("suffix_decoding_min_token_prob", self.suffix_decoding_min_token_prob, 0, 1)
        if self.max_model_len is not None:
            _check_range("max_model_len", self.max_model_len, 1)
        _check_range("draft_tensor_parallel_size", self.draft_tensor_parallel_size, 1, 1)
        if self.method == "draft_model" and not self.model:
            raise ValueError(
                "speculative_config has the method draft_model and no model: name the draft model, "
                "which may be the served one with another quantization"
            )


def read_config(given: Mapping[str, Any]) -> SpeculativeConfig:
    """Reads a configuration with vLLM's keys.

    Raises:
      ValueError: a key or a value that is not supported; the message names it.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"speculative_config must be a mapping, such as {{'method': 'ngram'}}, got {given!r}"
        )
    method = given.get("method", "draft_model" if given.get("model") else None)
    if method not in METHODS:
        raise ValueError(
            f"speculative_config has the method {method!r}, which is not supported: use "
            f"{', '.join(METHODS)}"
        )
    allowed = ("method", "num_speculative_tokens", *_KEYS[method])
    for key in given:
        if key not in allowed:
            raise ValueError(_refusal(key, method, allowed))
    values = {key: value for key, value in given.items() if value is not None}
    for field in fields(SpeculativeConfig):
        if field.name in values:
            _check_type(field.name, values[field.name], str(field.type))
    shortest, longest = values.get("prompt_lookup_min"), values.get("prompt_lookup_max")
    if (shortest is None) != (longest is None):  # one of them stands for both, as in vLLM
        values["prompt_lookup_min"] = longest if shortest is None else shortest
        values["prompt_lookup_max"] = values["prompt_lookup_min"]
    return SpeculativeConfig(
        **{"num_speculative_tokens": _NUM_TOKENS[method], **values, "method": method}
    )


def _refusal(key: str, method: str, allowed: tuple[str, ...]) -> str:
    remedy = f"the keys of this method are {', '.join(allowed)}"
    if key in _REFUSED:
        remedy = f"leave it out: {_REFUSED[key]}"
    for other, keys in _KEYS.items():
        if key in keys:
            remedy = f"it belongs to the method {other}"
    return f"speculative_config has the key {key!r}, which {method} does not have: {remedy}"


def _check_type(name: str, value: Any, declared: str) -> None:
    """Checks a value against the field's annotation, which names int, float or text."""
    kinds: tuple[type, ...] = (str,)
    if declared.startswith("int"):
        kinds = (int,)
    elif declared.startswith("float"):
        kinds = (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = {str: "text", int: "a whole number", float: "a number"}[kinds[-1]]
        raise ValueError(f"speculative_config.{name} must be {wanted}, got {value!r}")


def _check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:  # refuses NaN too
        ends = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        if least == most:
            ends = f"{least}"
        raise ValueError(f"speculative_config.{name} must be {ends}, got {value}")
