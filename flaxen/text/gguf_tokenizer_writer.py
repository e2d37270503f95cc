"""Describes a tokenizer in the `tokenizer.*` keys of a GGUF file: the inverse of gguf_tokenizer.py.

A GGUF file can describe less than tokenizer.json. So what is written is read again, and refused if
it gives a text other ids. Deliberately does not know how a GGUF file is written, or architectures.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import tokenizers

from flaxen.text.gguf_tokenizer import (
    BYTE,
    CONTROL,
    METASPACE,
    NORMAL,
    SPECIAL_TOKENS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_gguf_tokenizer,
)
from flaxen.text.parts import DEFAULT_TEMPLATE, TokenizerParts
from flaxen.text.pre_tokenizers import WORD_SPLITS
from flaxen.text.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)
# Texts that published tokenizers cut in different ways: line ends and runs of spaces, digits,
# contractions, marks before and after words, capitals, and scripts without spaces.
_PROBES = (
    "Hello, world! It's 7:30, isn't it? I'LL say we'Ve met. x",
    " \n\n \t\tif (a==b):\n\n\n    return  [1, 22, 333, 4444, 55555, 3.14]\r\n#_end_of_file ",
    "camelCaseWord HTTPServer snake_case_name A.B.C. e.g. $5.00 100% a/b\\c --flag=... !!??",
    "Größe naïve cafe\u0301 Ångström Привет, мир! ١٢٣ ½ ² ﬁ Straße İstanbul",
    "我想在2024年学习。こんにちは世界 안녕하세요 สวัสดี नमस्ते 🚀🙂\u200d🌫️ ∑∫√ ≠ ≤",
)
_SHOWN = 8  # special tokens of each kind that are tried inside a text


def write_gguf_tokenizer(parts: TokenizerParts, vocab_size: int) -> dict[str, Any]:
    """The keys of a tokenizer, as llama.cpp's converter writes them.

    Args:
      parts: the tokenizer.
      vocab_size: the model's rows; those without a token get one that no text has.

    Raises:
      ValueError: GGUF can't describe the tokenizer; the message says why.
    """
    state = json.loads(parts.backend.to_str())
    if state["model"]["type"] != "BPE":
        raise ValueError(
            f"the tokenizer is of the kind {state['model']['type']}, and only BPE can be written "
            "to a GGUF file: export the model as a directory of safetensors"
        )
    tokens, types = _tokens(parts.backend, state, vocab_size)
    has_bytes = state["model"]["byte_fallback"]
    kind = _sentencepiece if has_bytes else _byte_level
    metadata = {
        **kind(parts.backend, state["model"], tokens),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        **_special_ids(parts),
        **_templates(parts),
    }
    metadata |= _around(Tokenizer(parts), parts)
    _check(parts, metadata)
    return metadata


def _tokens(
    backend: tokenizers.Tokenizer, state: Mapping[str, Any], vocab_size: int
) -> tuple[list[str], list[int]]:
    by_id = {token_id: token for token, token_id in backend.get_vocab(True).items()}
    if max(by_id) >= vocab_size:
        raise ValueError(
            f"the tokenizer has the token {by_id[max(by_id)]!r} with id {max(by_id)}, and the "
            f"model only {vocab_size} rows: a GGUF file needs a row for each token"
        )
    added = {token["id"]: token for token in state["added_tokens"]}
    model = state["model"]

    def kind(token_id: int) -> int:
        if token_id not in by_id:
            return UNUSED
        if model["byte_fallback"] and by_id[token_id] == model["unk_token"]:
            return UNKNOWN
        if token_id in added:
            return CONTROL if added[token_id]["special"] else USER_DEFINED
        return BYTE if model["byte_fallback"] and _is_byte(by_id[token_id]) else NORMAL

    tokens = [by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(vocab_size)]
    return tokens, [kind(token_id) for token_id in range(vocab_size)]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_level(
    backend: tokenizers.Tokenizer, model: Mapping[str, Any], tokens: list[str]
) -> dict[str, Any]:
    merges = [f"{left} {right}" for left, right in _merges(model)]
    if not merges:
        raise ValueError(
            "the tokenizer has no merges, and a GGUF file can't hold an empty list of them: export "
            "the model as a directory of safetensors"
        )
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _word_split(backend, model),
        "tokenizer.ggml.merges": merges,
    }


def _word_split(backend: tokenizers.Tokenizer, model: Mapping[str, Any]) -> str:
    """The name of the word split that cuts texts as this tokenizer does.

    As llama.cpp's converter does, it is recognised by what it makes of texts: the same split is
    spelled in several ways in files.
    """
    normalizer, splitter = backend.normalizer, backend.pre_tokenizer
    texts = [normalizer.normalize_str(text) if normalizer else text for text in _PROBES]
    nfc = [tokenizers.normalizers.NFC().normalize_str(text) for text in _PROBES]
    for name, split in sorted(WORD_SPLITS.items(), key=lambda item: item[0] == "default"):
        if split.ignore_merges != bool(model.get("ignore_merges")):
            continue
        if texts != (nfc if split.nfc else list(_PROBES)) or splitter is None:
            continue
        built = split.build()
        if all(splitter.pre_tokenize_str(t) == built.pre_tokenize_str(t) for t in texts):
            return name
    raise ValueError(
        "the tokenizer cuts text into words in a way that has no name in GGUF files "
        f"(tokenizer.ggml.pre): known are {', '.join(WORD_SPLITS)}. Export the model as a "
        "directory of safetensors"
    )


def _sentencepiece(
    backend: tokenizers.Tokenizer, model: Mapping[str, Any], tokens: list[str]
) -> dict[str, Any]:
    """Pieces with scores: tokenizer.json has merges in their order in place of the scores."""
    ranks: dict[str, int] = {}
    for left, right in _merges(model):
        ranks.setdefault(left + right, len(ranks))
    first = backend.encode("x", add_special_tokens=False).tokens[0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [-float(ranks.get(token, len(ranks))) for token in tokens],
        "tokenizer.ggml.add_space_prefix": first.startswith(METASPACE),
    }


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model["merges"]:  # pairs, or texts in older files
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _special_ids(parts: TokenizerParts) -> dict[str, int]:
    found: dict[str, int | None] = {}
    for name, key in SPECIAL_TOKENS.items():
        token = parts.special_tokens.get(name)
        found[key] = parts.backend.token_to_id(token) if isinstance(token, str) else None
    found["bos"] = parts.bos_token_id
    found |= dict(zip(("eos", "eot", "eom"), parts.eos_token_ids, strict=False))
    left = [str(parts.backend.id_to_token(each)) for each in parts.eos_token_ids[3:]]
    if left:
        _LOG.warning(
            "a GGUF file names three tokens that end an answer, and the model has more: %s end "
            "none there, unless the program knows them by their text",
            ", ".join(left),
        )
    return {f"tokenizer.ggml.{key}_token_id": each for key, each in found.items()
            if each is not None}  # fmt: skip


def _around(tokenizer: Tokenizer, parts: TokenizerParts) -> dict[str, bool]:
    """Whether BOS and EOS are put around a text, by what is put around one."""
    plain = tokenizer.encode("x", add_special_tokens=False)
    whole = tokenizer.encode("x")
    eos = list(parts.eos_token_ids[:1])
    bos = [] if parts.bos_token_id is None else [parts.bos_token_id]
    for before in ([], bos):
        for after in ([], eos):
            if whole == [*before, *plain, *after]:
                return {
                    "tokenizer.ggml.add_bos_token": bool(before),
                    "tokenizer.ggml.add_eos_token": bool(after),
                }
    raise ValueError(
        f"the tokenizer puts other tokens than BOS and EOS around a text: it makes {whole} of "
        f"{plain}, which a GGUF file can't say. Export the model as a directory of safetensors"
    )


def _templates(parts: TokenizerParts) -> dict[str, Any]:
    key = "tokenizer.chat_template"
    found: dict[str, Any] = {
        f"{key}.{name}": source
        for name, source in parts.named_templates.items()
        if name != DEFAULT_TEMPLATE
    }
    if found:
        found["tokenizer.chat_templates"] = sorted(parts.named_templates)
    if parts.chat_template is not None:
        found[key] = parts.chat_template
    return found


def _check(parts: TokenizerParts, metadata: Mapping[str, Any]) -> None:
    """Reads the tokenizer back, and compares what both make of texts."""
    ours, again = Tokenizer(parts), Tokenizer(read_gguf_tokenizer(metadata))
    for text in _PROBES:
        if ours.encode(text) != again.encode(text):
            raise ValueError(
                f"a GGUF file can't describe the tokenizer: {text!r} would have other ids. Export "
                "the model as a directory of safetensors"
            )
    added = parts.backend.get_added_tokens_decoder().values()
    for is_special in (True, False):
        for token in islice((each for each in added if each.special is is_special), _SHOWN):
            text = f"a {token.content} b{token.content}c"
            if ours.encode(text) != again.encode(text):
                _LOG.warning(
                    "around the token %s a GGUF file reads spaces differently: %r has other ids",
                    token.content, text,
                )  # fmt: skip
                return
