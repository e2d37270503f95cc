"""Whether a head was fitted on this encoder: by the vectors of fixed texts.

A hash of the weights would refuse the same encoder in eight bits, whose vectors are nearly the same
(decision 0353).
"""

from __future__ import annotations

import numpy as np

from flaxen.learned_signals.windows import Vectors

# Changing one of these makes all files of heads unreadable.
ANCHORS = (
    "The court of appeal will decide next week whether the contract is void.",
    "How many prime numbers are there below one hundred?",
    "Please write a poem about the sea in winter, and then translate it.",
    "def area(radius): return 3.14159 * radius ** 2",
)
_LEAST_COSINE = 0.97  # of the same encoder in eight bits it is above 0.99


def check_encoder(given: Vectors, anchors: Vectors, name: str) -> None:
    """Refuses an encoder that a head was not fitted on.

    Args:
      given: the head's anchors.
      anchors: the vectors of ANCHORS by the encoder that is to be used.
      name: the head's, for the message.

    Raises:
      ValueError: they are of another encoder.
    """
    if given.shape != anchors.shape:
        raise ValueError(
            f"the head {name} was fitted on an encoder with {given.shape[-1]} dimensions, and this "
            f"one has {anchors.shape[-1]}: fit it on this one with flaxen route train"
        )
    cosine = float(np.sum(given * anchors, axis=-1).min())
    if cosine < _LEAST_COSINE:
        raise ValueError(
            f"the head {name} was fitted on another encoder (the same text has a cosine of "
            f"{cosine:.2f}): fit it on this one with flaxen route train"
        )
