"""From texts, pairs of texts and token ids to the ids that an engine takes.

A token's type stands in its id (decision 0290). Deliberately does not know how inputs arrive.
"""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.pooling.params import PoolingParams
from flaxen.protocol import FieldError, ModelInfo, PoolingInfo
from flaxen.text.tokenizer import Tokenizer


def input_ids(
    tokenizer: Tokenizer,
    info: ModelInfo,
    pooling: PoolingInfo,
    given: str | Sequence[int],
    params: PoolingParams,
    *,
    add_special_tokens: bool = True,
) -> list[int]:
    """The ids of one input.

    Args:
      tokenizer: the model's.
      info: the model's.
      pooling: how it pools.
      given: a text, before which the model's prompt is put; or token ids, which stay as they are.
      params: says whether the input is cut, and which prompt it gets.
      add_special_tokens: put the model's special tokens around a text.

    Raises:
      FieldError: a prompt is named for token ids.
    """
    most = params.max_tokens(info)
    name = params.prompt_name
    if not isinstance(given, str):
        if name is not None:
            raise FieldError(
                "prompt_name", "a prompt can't be put before token ids: give the text instead"
            )
        return params.cut(given, info)
    name = pooling.default_prompt if name is None else name
    text = given if name is None else pooling.prompts[name] + given
    if most is None:
        return tokenizer.encode(text, add_special_tokens)
    return tokenizer.encode_within(text, most, add_special_tokens, side=params.truncation_side)


def pair_ids(
    tokenizer: Tokenizer,
    info: ModelInfo,
    pooling: PoolingInfo,
    pair: tuple[str, str],
    params: PoolingParams,
) -> list[int]:
    """The ids of a pair of texts, as a cross-encoder reads them.

    Raises:
      ValueError: a text is not valid Unicode.
    """
    most, side = params.max_tokens(info), params.truncation_side
    ids, types = tokenizer.encode_pair(*pair, most, side)
    stride = pooling.token_type_stride
    return [token + kind * stride for token, kind in zip(ids, types, strict=True)]
