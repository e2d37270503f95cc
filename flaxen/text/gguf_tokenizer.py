"""Builds a tokenizer from the `tokenizer.*` keys of a GGUF file.

There are two kinds: "gpt2", byte-level BPE with merges, and "llama", SentencePiece pieces with
scores and byte fallback. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Deliberately does not know: how a GGUF file is read, or model architectures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from flaxen.text.parts import DEFAULT_TEMPLATE, TokenizerParts
from flaxen.text.pre_tokenizers import WORD_SPLITS
from flaxen.text.turn_end import find_turn_end

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
METASPACE = "\u2581"
_T = TypeVar("_T")
# A special token's name in templates, and in the file; the format itself spells "seperator".
SPECIAL_TOKENS = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator",
    "pad_token": "padding", "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip


def read_gguf_tokenizer(metadata: Mapping[str, object]) -> TokenizerParts:
    """The parts of the tokenizer that a GGUF file describes.

    Raises:
      ValueError: a key is missing or wrong, or the kind of tokenizer is not supported.
    """
    kind = _get(metadata, "ggml.model", str)
    tokens = _list(metadata, "ggml.tokens", str)
    types = _list(metadata, "ggml.token_type", int, default=[NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens: the "
            "GGUF file is damaged; fetch or convert it again"
        )
    if kind == "gpt2":
        backend, add_bos = _byte_level(metadata, tokens)
    elif kind == "llama":
        backend, add_bos = _sentencepiece(metadata, tokens, types), True
    else:
        raise ValueError(
            f"tokenizer.ggml.model is {kind!r}: only 'gpt2' (byte-level merges) and 'llama' "
            "(SentencePiece) are read; use the model's Hugging Face files instead"
        )
    special = [t for t, kind in zip(tokens, types, strict=True) if kind in (UNKNOWN, CONTROL)]
    user_defined = [t for t, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    backend.add_special_tokens([_added(token, special=True) for token in special])
    backend.add_tokens([_added(token, special=False) for token in user_defined])

    bos, eos = (_token_id(metadata, f"ggml.{name}_token_id", tokens) for name in ("bos", "eos"))
    add_bos = _get(metadata, "ggml.add_bos_token", bool, default=add_bos)
    add_eos = _get(metadata, "ggml.add_eos_token", bool, default=False)
    for name, wanted, token_id in (("bos", add_bos, bos), ("eos", add_eos, eos)):
        if wanted and token_id is None:
            raise ValueError(
                f"the GGUF file asks for a {name.upper()} token around each text and has no "
                f"tokenizer.ggml.{name}_token_id: convert it again"
            )
    special_tokens = _special_tokens(metadata, tokens)
    templates = _chat_templates(metadata)
    default = templates.pop(DEFAULT_TEMPLATE, None)
    turn_end = _token_id(metadata, "ggml.eot_token_id", tokens)
    if turn_end is None and default is not None:
        turn_end = find_turn_end(backend, default, special_tokens)
    ends = (eos, turn_end, _token_id(metadata, "ggml.eom_token_id", tokens))
    return TokenizerParts(
        backend=backend,
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys(i for i in ends if i is not None)),
        chat_template=default,
        named_templates=templates,
        special_tokens=special_tokens,
        prefix_ids=(bos,) if add_bos and bos is not None else (),
        suffix_ids=(eos,) if add_eos and eos is not None else (),
    )


def _byte_level(metadata: Mapping[str, object], tokens: list[str]) -> tuple[Tokenizer, bool]:
    """Returns the tokenizer, and whether texts begin with BOS if the file does not say."""
    if "tokenizer.ggml.pre" not in metadata:
        raise ValueError(
            "the GGUF file has no tokenizer.ggml.pre, which says how text is cut into words: it "
            "is from before April 2024; convert the model again"
        )
    name = _get(metadata, "ggml.pre", str)
    if name not in WORD_SPLITS:
        raise ValueError(
            f"tokenizer.ggml.pre is {name!r}, a way to cut text into words that is not supported: "
            f"use the model's Hugging Face files instead. Supported: {', '.join(WORD_SPLITS)}"
        )
    split = WORD_SPLITS[name]
    merges = []
    for merge in _list(metadata, "ggml.merges", str):
        space = merge.find(" ", 1)  # searched from 1, because a piece may begin with a space
        if space < 0:
            raise ValueError(f"tokenizer.ggml.merges must hold pairs 'left right', got {merge!r}")
        merges.append((merge[:space], merge[space + 1 :]))
    tokenizer = Tokenizer(_merge_model(tokens, merges, ignore_merges=split.ignore_merges))
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.add_bos


def _sentencepiece(
    metadata: Mapping[str, object], tokens: list[str], types: list[int]
) -> Tokenizer:
    scores = _list(metadata, "ggml.scores", float)
    if len(scores) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens: the GGUF "
            "file is damaged; fetch or convert it again"
        )
    unknown = _token_id(metadata, "ggml.unknown_token_id", tokens)
    unk_token = None if unknown is None else tokens[unknown]
    merges = _merges_of_scores(tokens, types, scores)
    tokenizer = Tokenizer(
        _merge_model(tokens, merges, unk_token=unk_token, byte_fallback=True, fuse_unk=True)
    )
    to_metaspace: normalizers.Normalizer = normalizers.Replace(" ", METASPACE)
    steps = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if _get(metadata, "ggml.add_space_prefix", bool, default=True):
        # As in llama.cpp, a space is added before the text, and again after each special token.
        to_metaspace = normalizers.Sequence([normalizers.Prepend(METASPACE), to_metaspace])
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = to_metaspace
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_of_scores(
    tokens: list[str], types: list[int], scores: list[float]
) -> list[tuple[str, str]]:
    """Derives BPE merges that give the same result as SentencePiece's scores.

    SentencePiece joins the pair with the best score first. So each way to split a piece into two
    pieces is a merge, ranked by the score of the piece.
    """
    pieces = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind not in (UNKNOWN, CONTROL, BYTE)
    }
    merges = []
    for piece in sorted(pieces, key=lambda piece: -scores[pieces[piece]]):
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        found = [(left, right) for left, right in cuts if left in pieces and right in pieces]
        merges += sorted(found, key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    return merges


def _merge_model(
    tokens: Iterable[str],
    merges: list[tuple[str, str]],
    *,
    unk_token: str | None = None,
    byte_fallback: bool = False,
    fuse_unk: bool = False,
    ignore_merges: bool = False,
) -> models.BPE:
    try:
        return models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            unk_token=unk_token,
            byte_fallback=byte_fallback,
            fuse_unk=fuse_unk,
            ignore_merges=ignore_merges,
        )
    except Exception as exc:  # the library raises no narrower type
        raise ValueError(
            f"the GGUF file's tokens and merges do not fit together: {exc}. The file is damaged; "
            "fetch or convert it again"
        ) from exc


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, special=special, normalized=False)


def _special_tokens(metadata: Mapping[str, object], tokens: list[str]) -> dict[str, str]:
    ids = {
        name: _token_id(metadata, f"ggml.{key}_token_id", tokens)
        for name, key in SPECIAL_TOKENS.items()
    }
    return {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}


def _chat_templates(metadata: Mapping[str, object]) -> dict[str, str]:
    """Maps names to Jinja sources: the default template, and those whose key ends with a name."""
    key = "tokenizer.chat_template"
    named = [name.removeprefix(f"{key}.") for name in metadata if name.startswith(f"{key}.")]
    found = {name: _get(metadata, f"chat_template.{name}", str) for name in named}
    if key in metadata:
        found[DEFAULT_TEMPLATE] = _get(metadata, "chat_template", str)
    return found


def _token_id(metadata: Mapping[str, object], name: str, tokens: list[str]) -> int | None:
    if f"tokenizer.{name}" not in metadata:
        return None
    token_id = _get(metadata, name, int)
    if not 0 <= token_id < len(tokens):
        raise ValueError(
            f"tokenizer.{name} is {token_id}, outside the vocabulary of {len(tokens)} tokens: the "
            "GGUF file is damaged; fetch or convert it again"
        )
    return token_id


def _get(
    metadata: Mapping[str, object], name: str, kind: type[_T], default: _T | None = None
) -> _T:
    value = metadata.get(f"tokenizer.{name}", default)
    if value is None:
        raise ValueError(
            f"the GGUF file has no tokenizer.{name}: it holds no tokenizer that we can read; use "
            "a GGUF file of a language model, or its Hugging Face files"
        )
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"tokenizer.{name} must be of type {kind.__name__}, got {value!r}")
    return value


def _list(
    metadata: Mapping[str, object], name: str, kind: type[_T], default: list[_T] | None = None
) -> list[_T]:
    values = _get(metadata, name, list, default)
    if not all(isinstance(value, kind) for value in values):
        wrong = next(value for value in values if not isinstance(value, kind))
        raise ValueError(f"tokenizer.{name} must hold only {kind.__name__}, got {wrong!r}")
    return cast("list[_T]", values)
