"""Samples a token for each row of logits: the argmax, or a sample of what the filters keep.

Deliberately does not know: penalties and other changes of the logits. `logprobs.py` reports the
log-probabilities of what was sampled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.log_softmax import gpu_invariant
from flaxen.token_sampling import cpu, reference
from flaxen.token_sampling.filters import row_sum

IMPLEMENTATIONS: Mapping[Backend, Callable[..., tuple[jax.Array, jax.Array]]] = implementations(
    reference.sample,
    {
        Backend.CPU: cpu.sample,
        Backend.GPU_INVARIANT: functools.partial(reference.sample, mass_sum=gpu_invariant.row_sum),
    },
)

__all__ = ["row_sum", "sample"]


def sample(
    logits: Float32[Array, "S V"],
    temperature: Float32[Array, S],
    top_k: Int32[Array, S],
    top_p: Float32[Array, S],
    min_p: Float32[Array, S],
    seed: UInt32[Array, "S 2"],
    position: Int32[Array, S],
    active: Bool[Array, S],
    *,
    num_parts: int = 1,
    backend: Backend,
) -> tuple[Int32[Array, S], Bool[Array, S]]:
    """Samples a token for each row, depending on that row's values only. It has no gradient.

    Args:
      logits: [S, V], V at least 1; a token with -inf is never sampled.
      temperature: [S], at least 0; 0 takes the largest logit, the first of equal ones.
      top_k: [S], at least 0; keeps the k largest logits, and those equal to the last of them. 0
          keeps all.
      top_p: [S], 0 to 1; of the tokens that min_p and top_k keep, keeps the fewest likeliest with
          at least this share of the probability, and those equal to the last of them. 1 keeps all,
          0 the likeliest.
      min_p: [S], 0 to 1; keeps tokens at least min_p times as likely as the likeliest.
      seed: [S, 2], the two halves of each row's seed.
      position: [S], the new token's position in its sequence: the other part of the noise's key.
      active: [S]; inactive rows (False) cost nothing.
      num_parts: V is in as many equal parts, each on another device of a mesh; the C++ kernel has
          only 1.
      backend: what computes.

    Returns:
      Token ids [S], and whether all logits of the row are finite [S]; 0 and False for inactive
      rows. For a row with NaN or inf the id is in the vocabulary, but meaningless.

    Raises:
      ValueError: shapes do not match, a dtype is wrong, or the vocabulary is empty.
    """
    args = {
        "logits": (logits, jnp.float32, (logits.shape[0], logits.shape[-1])),
        "temperature": (temperature, jnp.float32, logits.shape[:1]),
        "top_k": (top_k, jnp.int32, logits.shape[:1]),
        "top_p": (top_p, jnp.float32, logits.shape[:1]),
        "min_p": (min_p, jnp.float32, logits.shape[:1]),
        "seed": (seed, jnp.uint32, (logits.shape[0], 2)),
        "position": (position, jnp.int32, logits.shape[:1]),
        "active": (active, jnp.bool_, logits.shape[:1]),
    }
    for name, (value, dtype, shape) in args.items():
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(
                f"sample needs {name} as {jnp.dtype(dtype)} {list(shape)} for logits "
                f"{list(logits.shape)}, got {value.dtype} {list(value.shape)}"
            )
    if logits.shape[1] == 0:
        raise ValueError("sample needs logits of at least one token, got a vocabulary of 0")
    run = find_implementation("sample", IMPLEMENTATIONS, backend)
    assert num_parts == 1 or backend is not Backend.CPU, "the C++ kernel samples on one device"
    parts = () if num_parts == 1 else (num_parts,)
    return run(logits, temperature, top_k, top_p, min_p, seed, position, active, *parts)
