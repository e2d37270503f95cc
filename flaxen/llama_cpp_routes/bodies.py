"""The bodies of /completion and /infill: llama.cpp's names, and what they mean here.

Deliberately does not know answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import COMPLETION, Rule
from flaxen.server.generation.sampling_fields import check_token_ids
from flaxen.server.schema import StrictBody, Whole, must_be, whole

# llama.cpp's names of fields that all routes have.
NAMES = {"n_predict": "max_tokens", "repeat_penalty": "repetition_penalty", "n_probs": "logprobs"}
# The engine's names of fields -> those of these routes, for errors.
FIELD_NAMES = {"prompt_token_ids": "prompt", **{ours: theirs for theirs, ours in NAMES.items()}}
_BAN = -100.0  # the bias of a token that must not be sampled


def _is(wanted: Any) -> Rule:
    return Rule(
        lambda value: type(value) is type(wanted) and value == wanted, "it is not supported"
    )


_NO_SHIFT = Rule(
    lambda value: isinstance(whole(value), int),
    "it must be a whole number (the context is never shifted)",
)
WITHOUT_EFFECT = {
    **COMPLETION,
    "n_keep": _NO_SHIFT,
    "n_discard": _NO_SHIFT,
    "n": Rule(lambda value: value == 1, "send the prompt several times in a list"),
    "n_indent": _is(0),
    "min_keep": _is(0),
    "t_max_predict_ms": _is(0),
    "post_sampling_probs": Rule(
        lambda value: value is False, "which probabilities are told is the server's --logprobs-mode"
    ),
    "repeat_last_n": Rule(
        lambda value: value == -1, "penalties count all tokens of prompt and answer: send -1"
    ),
    "image_data": _is([]),
    "grammar_lazy": _is(False),
    "backend_sampling": _is(False),
}


class CompletionBody(StrictBody):
    """The fields of /completion beside the common ones."""

    prompt: Any  # read in prompts.py
    max_tokens: Whole | None = None
    logprobs: Whole | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None


def common_names(fields: dict[str, Any], context: Context) -> dict[str, Any]:
    """The fields of a body by the names that they have in other routes.

    Args:
      fields: as they were sent.
      context: has the tokenizer, for texts in logit_bias.

    Raises:
      ApiError: 400, a field was sent by both of its names, or logit_bias is invalid.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        ours = NAMES.get(name, name)
        if ours in found or (ours != name and ours in fields):
            raise invalid(f"{name} and {ours} mean the same: send one of them", name)
        found[ours] = value
    if found.get("seed") == -1:  # any
        del found["seed"]
    if found.get("logprobs") == 0:  # none, where other routes tell the sampled token's
        del found["logprobs"]
    if "logit_bias" in found:
        found["logit_bias"] = _biases(found["logit_bias"], context)
    return found


def _biases(given: Any, context: Context) -> dict[str, float] | None:
    """The biases by token id; texts stand for all of their tokens, and false forbids.

    Raises:
      ApiError: 400, it is neither an object nor a list of pairs, or a value is no number.
    """
    pairs: Iterable[Any] = given.items() if isinstance(given, dict) else given or ()
    if not isinstance(given, dict | list | None):
        pairs = [given]
    biases: dict[str, float] = {}
    for pair in pairs:
        match pair:
            case [str() | int() as key, bool() | int() | float() as bias] if bias is not True:
                ids = _ids_of(key, context)
                biases |= {str(i): _BAN if bias is False else float(bias) for i in ids}
            case _:
                raise must_be(
                    "logit_bias",
                    "a list of pairs [token id or text, number or false], or an object of them",
                    pair,
                    "invalid_type",
                )
    return biases or None


def _ids_of(key: str | int, context: Context) -> list[int]:
    if isinstance(key, str) and not (key.isascii() and key.isdigit()):
        return context.tokenizer.encode(key, add_special_tokens=False)
    ids = [int(str(key)[:10])]  # no vocabulary has more digits
    check_token_ids(ids, context.engine.info.vocab_size, "logit_bias")
    return ids
