"""The initial values of every trainer's adapters, so that losses compare step by step.

NumPy only, as it runs in every trainer's own environment.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Our names, and Hugging Face's within a layer.
TARGETS = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w_gate": "mlp.gate_proj",
    "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}


def draw_a(layer: int, target: str, num_inputs: int, rank: int) -> np.ndarray[Any, Any]:
    """The matrix A, which multiplies the input first, initialized as by PEFT and flaxen: uniform.

    Args:
      layer: from 0.
      target: one of TARGETS.
      num_inputs: I.
      rank: R.

    Returns:
      [I, R] float32.
    """
    bound = 1 / math.sqrt(num_inputs)
    rng = np.random.default_rng([layer, list(TARGETS).index(target)])
    return rng.uniform(-bound, bound, (num_inputs, rank)).astype(np.float32)
