"""The bytes that a token stands for, however its tokenizer spells them.

Knows: the two ways decoder-only models spell bytes in a vocabulary, byte-level and metaspace, and
the word pieces of encoders.
Deliberately does not know: ids, files, or how text is split into tokens.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_METASPACE = "\u2581"  # SentencePiece's space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a vocabulary spells bytes.

    `strips_leading_space`: the encoder adds a space before the text, so the decoder removes one.
    """

    to_bytes: Callable[[str], bytes]  # for one token of the base vocabulary
    added_to_bytes: Callable[[str], bytes]
    strips_leading_space: bool


def spelling_of(decoder_state: bytes | None) -> Spelling:
    """Finds out a vocabulary's spelling from its `tokenizers` decoder.

    Args:
      decoder_state: the decoder as JSON, None if the tokenizer has none.

    Raises:
      ValueError: the decoder is not one of a known decoder-only language model.
    """
    spec: dict[str, Any] = json.loads(decoder_state) if decoder_state else {"type": "absent"}
    steps: list[dict[str, Any]] = spec["decoders"] if spec["type"] == "Sequence" else [spec]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        # In a byte-level vocabulary, added tokens are raw text.
        return Spelling(to_bytes=_byte_level, added_to_bytes=str.encode, strips_leading_space=False)
    if kinds == ["Metaspace"]:
        strips = steps[0].get("prepend_scheme", "always") != "never"
        return Spelling(to_bytes=_metaspace, added_to_bytes=_metaspace, strips_leading_space=strips)
    if kinds == ["WordPiece"]:  # encoders: a token begins a word unless it has the prefix
        spell = functools.partial(_word_piece, steps[0]["prefix"])
        return Spelling(to_bytes=spell, added_to_bytes=spell, strips_leading_space=True)
    if kinds in (
        ["Replace", "ByteFallback", "Fuse"],
        ["Replace", "ByteFallback", "Fuse", "Strip"],
    ) and _is_metaspace(steps):
        strips = kinds[-1] == "Strip"
        return Spelling(to_bytes=_metaspace, added_to_bytes=_metaspace, strips_leading_space=strips)
    raise ValueError(
        f"the tokenizer's decoder is {' + '.join(kinds)}: only ByteLevel, Metaspace, WordPiece and "
        "Replace + ByteFallback + Fuse (+ Strip of one space) are supported; convert the tokenizer "
        "to one of these"
    )


def _is_metaspace(steps: list[dict[str, Any]]) -> bool:
    replaces = steps[0]["pattern"] == {"String": _METASPACE} and steps[0]["content"] == " "
    strip = steps[3] if len(steps) == 4 else {"content": " ", "start": 1, "stop": 0}
    return replaces and (strip["content"], strip["start"], strip["stop"]) == (" ", 1, 0)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its own character, other bytes begin at U+0100.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:  # characters outside the alphabet: the token is plain text
        return token.encode()


def _word_piece(prefix: str, token: str) -> bytes:
    rest = token.removeprefix(prefix)
    return (rest if rest != token else " " + token).encode()


def _metaspace(token: str) -> bytes:
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace(_METASPACE, " ").encode()
