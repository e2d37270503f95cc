"""Converts TokenLogprobs to the three JSON forms of OpenAI and vLLM. Pure functions.

Deliberately does not know requests or streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxen.protocol import TokenLogprobs
from flaxen.text.tokenizer import Tokenizer

# JSON has no infinity; other servers use this value for a token of probability 0.
_LEAST = -9999.0


def token_text(tokenizer: Tokenizer, token_id: int, as_id: bool = False) -> str:
    """A token as a string; `as_id` gives "token_id:7", which also distinguishes parts of
    characters.
    """
    if as_id:
        return f"token_id:{token_id}"
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")


def completion_logprobs(
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    *,
    num_top: int | None,
    offsets: Sequence[int],
    tokenizer: Tokenizer,
    as_ids: bool,
) -> dict[str, Any]:
    """The `logprobs` of /v1/completions.

    Args:
      token_ids: the tokens.
      entries: one for each token; None for the first token of a prompt, which has no
          log-probability.
      num_top: how many tokens to list; None: all that the request named. The token itself is
          always listed, first.
      offsets: where each token begins in the text.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for token_id, entry in zip(token_ids, entries, strict=True):
        text = token_text(tokenizer, token_id, as_ids)
        tokens.append(text)
        if entry is None:
            values.append(None)
            tops.append(None)
            continue
        values.append(_finite(entry.logprob))
        top: dict[str, float] = {}
        for top_id, logprob in ((entry.token_id, entry.logprob), *entry.top[:num_top]):
            # Two tokens may have equal text: the token itself or the likelier one is kept.
            top.setdefault(token_text(tokenizer, top_id, as_ids), _finite(logprob))
        tops.append(top)
    masses = [None if entry is None else entry.kept_mass for entry in entries]
    told = {} if set(masses) <= {None} else {"kept_mass": masses}
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": list(offsets),
        **told,
    }


def chat_logprobs(
    entries: Sequence[TokenLogprobs], *, num_top: int | None, tokenizer: Tokenizer, as_ids: bool
) -> dict[str, Any]:
    """The `logprobs` of /v1/chat/completions: `num_top` tokens of each position, of which the
    sampled one is the first, as in vLLM; with None those that the request named.
    """

    def describe(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(tokenizer, token_id, as_ids),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        describe(entry.token_id, entry.logprob)
        | {"top_logprobs": [describe(*top) for top in _sampled_first(entry, num_top)]}
        | ({} if entry.kept_mass is None else {"kept_mass": entry.kept_mass})
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], *, num_top: int, tokenizer: Tokenizer
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's `prompt_logprobs`: for each token after the first, the likeliest tokens by id."""
    described: list[dict[str, dict[str, Any]] | None] = []
    for entry in entries:
        if entry is None:
            described.append(None)
            continue
        ranked = [(i, lp, rank) for rank, (i, lp) in enumerate(entry.top[:num_top], start=1)]
        # If the token itself is also among the likeliest, both entries are equal.
        described.append(
            {
                str(token_id): {
                    "logprob": _finite(logprob),
                    "rank": rank,
                    "decoded_token": token_text(tokenizer, token_id),
                }
                for token_id, logprob, rank in (
                    (entry.token_id, entry.logprob, entry.rank),
                    *ranked,
                )
            }
        )
    return described


def _sampled_first(entry: TokenLogprobs, count: int | None) -> list[tuple[int, float]]:
    if count is None:
        return list(entry.top)
    others = [top for top in entry.top[:count] if top[0] != entry.token_id]
    return [(entry.token_id, entry.logprob), *others][:count]


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
