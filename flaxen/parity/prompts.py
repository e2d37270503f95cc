"""The prompts of `flaxen parity`, limited by the model's length.

Deliberately does not know the computation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

CHUNK = 16  # tokens of a step of the server with chunked prefill; also the page size
_MADE_UP = 40  # tokens of a random prompt

# The prompts differ in length and in kind.
PROMPTS = (
    "A trainer and a server that share one forward agree on every token, since there is nothing "
    "left in which they could differ: the same kernels add the same numbers in the same order.",
    "In the harbour the boats lay side by side, and the fishermen mended their nets until the "
    "light was gone. Nobody spoke of the storm, although everybody had seen the sky at noon.",
    "def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    a, b = 0, 1\n"
    "    for _ in range(n - 1):\n        a, b = b, a + b\n    return b\n\nprint([fibonacci(i)",
    "The three laws of thermodynamics, in the order in which they are taught: energy is conserved; "
    "entropy does not decrease in a closed system; and the entropy of a perfect crystal",
    "Recipe for a simple bread. Mix 500 g of flour with 350 g of water, 10 g of salt and a little "
    "yeast. Let it rest for an hour, fold it four times, and let it rise overnight. " * 6,
    "Numbers: 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3",
)


def own_prompts(
    encode: Callable[[str], Sequence[int]], *, room: int, vocab_size: int
) -> list[tuple[int, ...]]:
    """Our own texts as token ids, cut to the model's length.

    A text with too few tokens, or with tokens outside the model's vocabulary, is replaced by random
    ids: the comparison does not depend on their meaning.

    Args:
      encode: tokenizes a text.
      room: the most tokens of a prompt, more than CHUNK.
      vocab_size: the model's vocabulary size.
    """
    found = []
    for number, text in enumerate(PROMPTS):
        ids = tuple(encode(text))[:room]
        if len(ids) <= CHUNK or max(ids) >= vocab_size:
            rng = random.Random(number)
            ids = tuple(rng.randrange(vocab_size) for _ in range(min(room, _MADE_UP)))
        found.append(ids)
    return found


def prompt_room(max_position: int, num_outputs: int) -> int:
    """The most tokens of a prompt.

    Args:
      max_position: the most tokens of a sequence.
      num_outputs: tokens generated after a prompt.

    Raises:
      ValueError: there is no room for a prompt.
    """
    room = max_position - num_outputs
    if room <= CHUNK:
        raise ValueError(
            f"the model takes {max_position} tokens, and --max-tokens {num_outputs} leaves "
            f"{max(room, 0)} for a prompt, of which parity needs at least {CHUNK + 1}: "
            + (
                f"lower --max-tokens to {max_position - CHUNK - 1}"
                if max_position > CHUNK + 1
                else "it can't be compared"
            )
        )
    return room


def check_prompts(prompts: Sequence[Sequence[int]], room: int) -> None:
    """Refuses user prompts that are too long.

    Raises:
      ValueError: a prompt is too long.
    """
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) > room:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, and the model takes {room} beside "
                "those of --max-tokens: shorten it, or lower --max-tokens"
            )
