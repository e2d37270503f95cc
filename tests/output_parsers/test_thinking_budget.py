"""Reasoning ends where its budget is used up, and nothing else is constrained."""

from __future__ import annotations

import numpy as np
import pytest

from flaxen.output_parsers.thinking_budget import ThinkingBudget
from tests.server.fakes import VOCAB_SIZE, byte_tokenizer

TOKENIZER = byte_tokenizer()
END = "</think>"


class Only:
    """A grammar that allows one token at a time: those of a text."""

    def __init__(self, text: str) -> None:
        self.left = list(text.encode())

    def fill_bitmask(self, bitmask: memoryview) -> None:
        bitmask[self.left[0] // 32] = 1 << self.left[0] % 32

    def accept_token(self, token_id: int) -> None:
        assert self.left.pop(0) == token_id


def budget(tokens: int, begin: str = "", inner: Only | None = None) -> ThinkingBudget:
    return ThinkingBudget(
        inner, budget=tokens, begin=begin, end=END, end_ids=list(END.encode()),
        token_bytes=TOKENIZER.token_bytes,
    )  # fmt: skip


def allowed(grammar: ThinkingBudget) -> list[int]:
    mask = np.zeros(-(-VOCAB_SIZE // 32), np.uint32)
    grammar.fill_bitmask(mask.data)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCAB_SIZE]
    return [int(i) for i in np.nonzero(bits)[0]]


def say(grammar: ThinkingBudget, wish: str) -> str:
    """What is said by a model that wishes to say a text, and gets on with it when it may."""
    said, left = bytearray(), list(wish.encode())
    while left:
        may = allowed(grammar)
        token = left.pop(0) if left[0] in may and len(may) > 1 else may[0]
        said.append(token)
        grammar.accept_token(token)
    return said.decode()


@pytest.mark.parametrize(
    ("tokens", "begin", "wish", "said"),
    [
        (3, "", "abcdef", "abc</think>def"),
        (0, "", "abc", "</think>abc"),
        (6, "", "a</think>bcdefgh", "a</thi</think>nk>bcdefgh"),  # an end that is too late
        (9, "", "a</think>bcdefgh", "a</think>bcdefgh"),
        (99, "", "abc", "abc"),
        (3, "<think>", "<think>abcdef", "<think>abc</think>def"),
        (0, "<think>", "\n<think>abc", "\n<think></think>abc"),
        (3, "<think>", "An answer.", "An answer."),
        (3, "<think>", "<thin air", "<thin air"),
    ],
)
def test_the_end_comes_in_time(tokens: int, begin: str, wish: str, said: str) -> None:
    assert say(budget(tokens, begin), wish) == said


def test_all_tokens_are_allowed_until_then() -> None:
    grammar = budget(1)
    assert allowed(grammar) == list(range(VOCAB_SIZE))
    grammar.accept_token(ord("a"))
    assert allowed(grammar) == [ord("<")]


def test_another_grammar_holds_too() -> None:
    inner = Only("a</think>{}")
    grammar = budget(1, inner=inner)
    for token in b"a</think>{}":
        assert allowed(grammar) == [token]
        grammar.accept_token(token)
    assert inner.left == []
