"""The prompts of `flaxen parity`: as many tokens as the model has room for.

Deliberately does not know what is computed with them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

CHUNK = 16  # tokens of a step in the server that prefills in chunks; a page is as large
_MADE_UP = 40  # tokens of a prompt that no text gives

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
    """Our own texts as token ids, cut to what the model has room for.

    A text of which the tokenizer makes too few tokens, or tokens that the model has not, is
    replaced by ids that are made up: what is compared does not depend on what they mean.

    Args:
      encode: a text to token ids.
      room: tokens of a prompt, more than CHUNK.
      vocab_size: of the model.
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
    """How many tokens a prompt may have.

    Args:
      max_position: tokens that a sequence of the model can have.
      num_outputs: tokens that follow a prompt.

    Raises:
      ValueError: too few to compare anything.
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
    """Refuses prompts of the user's that are too long.

    Raises:
      ValueError: one is.
    """
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) > room:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens, and the model takes {room} beside "
                "those of --max-tokens: shorten it, or lower --max-tokens"
            )
