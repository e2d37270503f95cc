"""The incremental text is the whole text, cut at the first stop string, and never too early."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flaxen.text.detokenize import Detokenizer
from flaxen.text.tokenizer import Tokenizer

IDS = st.lists(st.integers(0, 49151), max_size=30)
TEXTS = st.text(
    st.sampled_from("ab \n.中é\u0301👩\u200d🚀🏽\u00a0")
    | st.characters(max_codepoint=0xFFFF, codec="utf-8")
)


def run(
    tokenizer: Tokenizer,
    ids: list[int],
    *,
    prompt: tuple[int, ...] = (),
    skip: bool = True,
    stop: tuple[str, ...] = (),
    include: bool = False,
    min_tokens: int = 0,
) -> tuple[list[str], str | None]:
    """The text of each push until the stop, then the flush; and the stop string."""
    detokenizer = Detokenizer(
        tokenizer,
        prompt,
        skip_special_tokens=skip,
        stop=stop,
        include_stop_str=include,
        min_tokens=min_tokens,
    )
    texts = []
    for token_id in ids:
        texts.append(detokenizer.push(token_id))
        if detokenizer.stopped is not None:
            break
    return [*texts, detokenizer.flush()], detokenizer.stopped


@given(ids=IDS, skip=st.booleans())
def test_pushes_join_to_decode_of_any_ids(smollm2: Tokenizer, ids: list[int], skip: bool) -> None:
    texts, _ = run(smollm2, ids, skip=skip)
    assert "".join(texts) == smollm2.decode(ids, skip)


@given(text=TEXTS)
def test_pushes_join_to_the_text(smollm2: Tokenizer, text: str) -> None:
    ids = smollm2.encode(text)
    # The vocabulary lacks a few bytes of rare characters, which are lost in encoding.
    assume(smollm2.decode(ids, False) == text)
    texts, _ = run(smollm2, ids, skip=False)
    assert "".join(texts) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in texts)


@given(ids=st.lists(st.integers(0, 269), max_size=20), skip=st.booleans())
def test_pushes_join_to_decode_of_sentencepiece(
    llama_metadata: dict[str, Any], ids: list[int], skip: bool
) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    texts, _ = run(tokenizer, ids, prompt=(1,), skip=skip)
    # With its BOS shown, the prompt has text, and the output's own space stays.
    expected = tokenizer.decode(ids) if skip else tokenizer.decode([1, *ids], False)[len("<s>") :]
    assert "".join(texts) == expected


def reference(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...], include: bool, min_tokens: int
) -> tuple[str, str | None]:
    """The same by looking at the whole text after each character, for byte-level tokenizers."""
    text = ""
    for count in range(1, len(ids) + 1):
        grown = tokenizer.decode(ids[:count], False)
        # Half a character at the end is not text yet, unless the ids end there.
        whole = grown if count == len(ids) else grown.rstrip("\ufffd")
        while len(text) < len(whole):
            text += whole[len(text)]
            found = [s for s in stop if text.endswith(s)] if count >= min_tokens else []
            if found:
                longest = max(found, key=len)
                return (text if include else text.removesuffix(longest)), longest
    return text, None


@given(
    text=st.text("ab中", max_size=24),
    stop=st.lists(st.text("ab中", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple),
    include=st.booleans(),
    min_tokens=st.integers(0, 12),
)
def test_stop_strings_end_the_text(
    smollm2: Tokenizer, text: str, stop: tuple[str, ...], include: bool, min_tokens: int
) -> None:
    ids = smollm2.encode(text)
    texts, stopped = run(
        smollm2, ids, skip=False, stop=stop, include=include, min_tokens=min_tokens
    )
    expected = reference(smollm2, ids, stop, include, min_tokens)
    assert ("".join(texts), stopped) == expected


@given(
    text=st.text("ab ", max_size=24),
    stop=st.lists(st.text("ab ", min_size=1, max_size=6), min_size=1, max_size=3).map(tuple),
)
def test_only_what_may_become_a_stop_string_is_held_back(
    smollm2: Tokenizer, text: str, stop: tuple[str, ...]
) -> None:
    ids = smollm2.encode(text)
    texts, _ = run(smollm2, ids, skip=False, stop=stop)
    shown = ""
    for count, piece in enumerate(texts[:-1], start=1):
        shown += piece
        so_far = smollm2.decode(ids[:count], False)
        if any(s in so_far for s in stop):
            break
        prefixes = {s[:n] for s in stop for n in range(len(s))}
        held = max((p for p in prefixes if so_far.endswith(p)), key=len)
        assert shown + held == so_far


# Texts whose special tokens are written out; "<|im_start|>" and "<|im_end|>" are special.
PIECES = st.lists(
    st.sampled_from(["a", "b", "<", "|", "im", ">", "<|im_start|>", "<|im_end|>"]), max_size=9
)
STOPS = st.lists(
    st.sampled_from(
        ["a", "ab", "ba", "aa", "<|im_start|>", "a<|im_end|>", "|>b", "<|im_end|><|im_start|>", "<"]
    ),
    min_size=1,
    max_size=3,
).map(tuple)


def reference_with_special_tokens(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...], include: bool, min_tokens: int
) -> tuple[str, str | None]:
    """Looks after each character at the text with special tokens, and at the one without them."""
    text, shown = "", ""
    for count, token_id in enumerate(ids, start=1):
        is_shown = token_id not in tokenizer.special_token_ids
        for char in tokenizer.token(token_id):
            text, shown = text + char, shown + char * is_shown
            found = [s for s in stop if text.endswith(s) or (is_shown and shown.endswith(s))]
            if found and count >= min_tokens:
                longest = max(found, key=len)
                if text.endswith(longest):
                    num_hidden = hidden_at_the_end(tokenizer, ids[:count], text, len(longest))
                    before = shown[: len(shown) - (len(longest) - num_hidden)]
                else:
                    before = shown.removesuffix(longest)
                return (before + longest if include else before), longest
    return shown, None


def hidden_at_the_end(tokenizer: Tokenizer, ids: list[int], text: str, length: int) -> int:
    """How many of the last `length` characters are hidden; the text may end within a token."""
    is_hidden = [
        token_id in tokenizer.special_token_ids
        for token_id in ids
        for _ in tokenizer.token(token_id)
    ]
    return sum(is_hidden[len(text) - length : len(text)])


@given(pieces=PIECES, stop=STOPS, include=st.booleans(), min_tokens=st.integers(0, 4))
def test_stop_strings_see_hidden_tokens(
    smollm2: Tokenizer, pieces: list[str], stop: tuple[str, ...], include: bool, min_tokens: int
) -> None:
    ids = [token_id for piece in pieces for token_id in smollm2.encode(piece)]
    texts, stopped = run(smollm2, ids, stop=stop, include=include, min_tokens=min_tokens)
    expected = reference_with_special_tokens(smollm2, ids, stop, include, min_tokens)
    assert ("".join(texts), stopped) == expected
    if not include and not min_tokens:
        assert not any(s in "".join(texts) for s in stop)


def test_a_hidden_token_may_be_in_a_stop_string_or_beside_it(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("a\n<|im_start|>user b")
    for stop, text in (
        ("<|im_start|>", "a\n"),
        ("\n<|im_start|>", "a"),
        ("<|im_start|>user", "a\n"),
        ("user", "a\n"),
        ("\nuser", "a"),
        ("nothing", "a\nuser b"),
    ):
        texts, stopped = run(smollm2, ids, stop=(stop,))
        assert ("".join(texts), stopped or "nothing") == (text, stop)
        texts, _ = run(smollm2, ids, stop=(stop,), include=True)
        assert "".join(texts) == (text if stop == "nothing" else text + stop)
    # What may become one waits; it comes when it can't any more.
    assert run(smollm2, ids, stop=("\n<|im_start|>x",))[0][:4] == ["a", "", "", "\nuser"]


def test_half_a_character_waits(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("🦩")
    texts, _ = run(smollm2, ids)
    assert texts == [*[""] * (len(ids) - 1), "🦩", ""]
    # Nothing completes it: it is shown as what it is, once.
    assert run(smollm2, ids[:-1])[0][-1] == "\ufffd"


def test_a_leading_space_is_taken_off_only_where_the_text_begins(
    llama_metadata: dict[str, Any],
) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    ids = tokenizer.encode("ab", add_special_tokens=False)
    assert "".join(run(tokenizer, ids, prompt=(1,))[0]) == "ab"
    assert "".join(run(tokenizer, ids, prompt=(1, *ids))[0]) == " ab"


def test_min_tokens_counts_the_token_that_completes_the_stop_string(smollm2: Tokenizer) -> None:
    ids = [smollm2.encode(char)[0] for char in "abab"]
    assert run(smollm2, ids, stop=("ab",), min_tokens=2) == (["", "", ""], "ab")
    assert run(smollm2, ids, stop=("ab",), min_tokens=3) == (["", "ab", "", "", ""], "ab")


def test_pushing_past_the_stop_is_a_bug(smollm2: Tokenizer) -> None:
    detokenizer = Detokenizer(
        smollm2, (), skip_special_tokens=True, stop=("a",), include_stop_str=True, min_tokens=0
    )
    (token_id,) = smollm2.encode("a")
    assert detokenizer.push(token_id) == "a"
    with pytest.raises(AssertionError, match="the text ended at the stop string 'a'"):
        detokenizer.push(token_id)


def test_an_empty_stop_string_is_refused(smollm2: Tokenizer) -> None:
    with pytest.raises(ValueError, match="a stop string is empty"):
        run(smollm2, [], stop=("a", ""))
