"""A text's vectors do not depend on what else is asked, or on what is known; a long text is read
whole or refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.build import Parts
from flaxen.learned_signals.cache import ContentCache
from flaxen.learned_signals.encoder import Encoder, TextTooLongError
from flaxen.learned_signals.windows import Cutter, Windows, unit
from tests.learned_signals.conftest import MakeEncoder

TEXTS = ["the sky is blue", "fish", "the deep sea is not red " * 60, "a b c", "sky sea " * 34]


def read(encoder: Encoder, *texts: str) -> list[Windows]:
    async def all_at_once() -> list[Windows]:
        return list(await asyncio.gather(*map(encoder.windows, texts)))

    return asyncio.run(all_at_once())


def test_batched_is_alone_and_cached_is_not(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    batched = read(encoder, *TEXTS)
    passes = encoder.num_passes
    again = read(encoder, *TEXTS)
    assert encoder.num_passes == passes
    for text, one, other in zip(TEXTS, batched, again, strict=True):
        [alone] = read(make_encoder(), text)
        np.testing.assert_array_equal(one.vectors, alone.vectors)
        np.testing.assert_array_equal(one.vectors, other.vectors)
        np.testing.assert_allclose(np.linalg.norm(one.pooled), 1, rtol=1e-6)


def test_a_text_that_many_ask_for_is_one_pass(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder()
    read(encoder, *["the sky"] * 20)
    assert encoder.num_passes == 1


def test_a_text_beyond_the_limit_is_refused_with_its_size(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(max_windows=3)
    with pytest.raises(TextTooLongError, match="has 8 windows, and at most 3 are read"):
        read(encoder, "sky " * 400)


@settings(max_examples=60, deadline=None)
@given(num_tokens=st.integers(0, 300), most=st.integers(3, 70))
def test_windows_cover_every_token(num_tokens: int, most: int, parts: Parts) -> None:
    """Token i of the text is at the same place of the windows in whose range it is."""
    words = ["sky", "sea", "is", "blue", "deep", "red", "fish"]
    text = " ".join(words[(i * i) % 7] for i in range(num_tokens))
    ids = parts.tokenizer.encode(text, add_special_tokens=False)
    cutter = Cutter(parts.tokenizer, most)
    windows = cutter.windows(text)
    assert len(windows) == cutter.num_windows(len(ids))
    first, last = parts.tokenizer.encode("sky")[0], parts.tokenizer.encode("sky")[-1]
    room = most - 2
    step = max(1, room - room // 4)
    covered: list[int] = []
    for index, ((begin, *body, end), _) in enumerate(windows):
        assert (begin, end) == (first, last)
        assert len(body) <= room
        assert body == ids[index * step : index * step + len(body)]
        assert index * step <= len(covered)  # nothing lies between two windows
        covered = ids[: index * step + len(body)]
    assert covered == ids
    if num_tokens <= room:
        assert [window.ids for window in windows] == [tuple(parts.tokenizer.encode(text))]


@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(st.integers(0, 7), max_size=300), most=st.integers(3, 258))
def test_pieces_cover_every_token_once_or_share_half(
    drawn: list[int], most: int, parts: Parts
) -> None:
    """A piece ends with a sentence, or is half of the next one."""
    words = ["sky", "sea", "is", "blue", "deep", "red", "fish", "."]
    ids = parts.tokenizer.encode(" ".join(words[i] for i in drawn), add_special_tokens=False)
    cutter = Cutter(parts.tokenizer, most)
    room = most - 2
    step, longest = max(1, room - room // 4), max(1, min(24, room // 4))
    pieces = []
    for index, (window, spans) in enumerate(cutter.windows(" ".join(words[i] for i in drawn))):
        for begin, end in spans:
            at = index * step + begin - 1
            assert list(window[begin:end]) == ids[at : at + end - begin]
            assert 0 < end - begin <= longest
            pieces.append((at, at + end - begin))
    covered = 0
    for begin, end in sorted(pieces):
        assert begin in (covered, covered - longest + max(1, longest // 2))
        covered = end
    assert covered == len(ids)


class Letters:
    """A tokenizer whose tokens are letters, between 0 and 1."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [ord(letter) for letter in text]
        return [0, *ids, 1] if add_special_tokens else ids

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_a_piece_is_a_sentence() -> None:
    cutter = Cutter(Letters(), 128)  # type: ignore[arg-type]

    def pieces(text: str) -> list[str]:
        [(ids, spans)] = cutter.windows(text)
        return ["".join(map(chr, ids[begin:end])) for begin, end in spans]

    assert pieces("Come here! Is it 3? 你好吗朋友。No") == [
        "Come here!",
        " Is it 3?",
        " 你好吗朋友。",
        "No",
    ]
    assert pieces("1. First") == ["1. First"]  # a number is no sentence
    assert pieces("") == []


def test_a_piece_alone_does_not_depend_on_what_stands_around_it(make_encoder: MakeEncoder) -> None:
    async def pieces(encoder: Encoder, text: str) -> tuple[Windows, np.ndarray]:
        windows = await encoder.windows(text, with_pieces=True)
        return windows, await encoder.alone(windows.pieces)

    words = ("the sky is blue a fish " * 4 + "deep red sea " * 4).split()
    long, several = asyncio.run(pieces(make_encoder(), " ".join(words)))
    most = len(long.pieces[0]) - 2
    begin = most // 2  # of the second piece
    middle = " ".join(words[begin : begin + most])
    short, one = asyncio.run(pieces(make_encoder(), middle))
    assert short.pieces == (long.pieces[1],)
    np.testing.assert_array_equal(one[0], several[1])
    np.testing.assert_array_equal(one, short.vectors)
    assert not np.allclose(long.in_context[1], short.in_context[0], atol=1e-3)
    assert long.in_context.shape == several.shape


def test_a_window_without_room_is_refused(parts: Parts) -> None:
    with pytest.raises(ValueError, match="2 tokens has no room"):
        Cutter(parts.tokenizer, 2)


def test_the_ends_of_a_text_count_as_much_as_all_between() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32))
    expected = unit(rows[0] + rows[-1] + rows[1:-1].mean(axis=0))
    np.testing.assert_allclose(Windows(rows).pooled, expected, atol=1e-6)
    np.testing.assert_allclose(Windows(rows[:1]).pooled, rows[0], atol=1e-6)


def test_a_cache_forgets_what_was_not_used_for_longest() -> None:
    cache: ContentCache[int] = ContentCache(2)
    for number, name in enumerate([b"a", b"b"]):
        cache.put(name, number)
    assert cache.get(b"a") == 0
    cache.put(b"c", 2)
    assert [cache.get(name) for name in (b"a", b"b", b"c")] == [0, None, 2]
    assert len(cache) == 2
