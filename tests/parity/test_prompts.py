"""The prompts of `flaxen parity` fit the model."""

from __future__ import annotations

import pytest

from flaxen.parity.prompts import PROMPTS, check_prompts, own_prompts, prompt_room


def encode(text: str) -> list[int]:
    return list(text.encode())


def test_a_model_with_room_gets_the_texts_as_they_are() -> None:
    found = own_prompts(encode, room=10_000, vocab_size=256)
    assert found == [tuple(encode(text)) for text in PROMPTS]


def test_they_are_cut() -> None:
    found = own_prompts(encode, room=30, vocab_size=256)
    assert found == [tuple(encode(text))[:30] for text in PROMPTS]


@pytest.mark.parametrize("few", [lambda text: [], lambda text: [5, 6], lambda text: [999] * 20])
def test_a_tokenizer_that_gives_too_little_is_replaced(few: object) -> None:
    found = own_prompts(few, room=30, vocab_size=7)  # type: ignore[arg-type]
    assert {len(prompt) for prompt in found} == {30}
    assert len(set(found)) == len(PROMPTS)
    assert {token for prompt in found for token in prompt} == set(range(7))


@pytest.mark.parametrize(
    ("max_position", "message"),
    [(40, "leaves 16 for a prompt, .* at least 17: lower --max-tokens to 23$"),
     (16, "leaves 0 for a prompt, .*: it can't be compared$")],
)  # fmt: skip
def test_too_little_room_is_refused(max_position: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_room(max_position, 24)
    assert prompt_room(41, 24) == 17


def test_prompts_of_the_users_that_are_too_long_are_refused() -> None:
    check_prompts([range(5)], 5)
    with pytest.raises(ValueError, match="prompt 2 has 6 tokens, and the model takes 5 beside"):
        check_prompts([range(5), range(6)], 5)
