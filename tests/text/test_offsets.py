"""Where tokens begin in their text: by hand, and against the whole text."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from flaxen.text.offsets import TextOffsets
from flaxen.text.tokenizer import Tokenizer


def offsets_of(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    offsets = TextOffsets(tokenizer, strips_space=tokenizer.strips_leading_space)
    return [offsets.push(token_id) for token_id in ids]


def by_bytes(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The same, by where each character of the whole text begins in its bytes."""
    data, begins = b"".join(map(tokenizer.token_bytes, ids)), []
    while sum(begins) < len(data):
        rest = data[sum(begins) :]
        # The fewest bytes that give one character, and leave the text behind it as it is.
        begins.append(
            next(
                n
                for n in range(1, 5)
                if len(rest[:n].decode("utf-8", "replace")) == 1
                and rest[:n].decode("utf-8", "replace") + rest[n:].decode("utf-8", "replace")
                == rest.decode("utf-8", "replace")
            )
        )
    found, position = [], 0
    for token_id in ids:
        # Characters that end at or before the token's first byte.
        found.append(sum(sum(begins[: i + 1]) <= position for i in range(len(begins))))
        position += len(tokenizer.token_bytes(token_id))
    return found


@example(ids=[184, 111, 0])  # ED A1, of which no third byte makes a character
@given(ids=st.lists(st.integers(0, 49151) | st.integers(100, 300), max_size=20))
def test_offsets_of_any_tokens(smollm2: Tokenizer, ids: list[int]) -> None:
    assert offsets_of(smollm2, ids) == by_bytes(smollm2, ids)


def test_tokens_of_one_character_begin_with_it(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("a🦩b")
    assert len(ids) == 5
    assert offsets_of(smollm2, ids) == [0, 1, 1, 1, 2]
    # What nothing completes is a character of its own.
    assert smollm2.decode([ids[0], ids[1], ids[4]]) == "a\ufffdb"
    assert offsets_of(smollm2, [ids[0], ids[1], ids[4]]) == [0, 1, 2]


def test_hidden_tokens_and_the_tokenizers_own_space_are_no_text(
    llama_metadata: dict[str, object],
) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    ids = tokenizer.encode("ab c", add_special_tokens=False)
    assert tokenizer.decode(ids) == "ab c"
    assert offsets_of(tokenizer, ids) == [0, 2]
    offsets = TextOffsets(tokenizer, strips_space=True, start=5)
    assert [offsets.push(i, is_hidden=i == 1) for i in (1, *ids, 1)] == [5, 5, 7, 9]
    assert offsets.num_characters == 9
