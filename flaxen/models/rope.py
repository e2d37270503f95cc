"""Rotary position embedding, https://arxiv.org/abs/2104.09864, and its extensions to long contexts.

Computes the angles; `kernels/rope` rotates by them. Deliberately does not know models.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flaxen.models.rope_config import RopeConfig


def rope_tables(
    rope: RopeConfig, head_dim: int, positions: Int[Array, "*B"]
) -> tuple[Float[Array, "*B 1 half"], Float[Array, "*B 1 half"]]:
    """Cosines and sines of the rotation at each position.

    Args:
      rope: the kind and its parameters.
      head_dim: H.
      positions: [...] integer positions.

    Returns:
      Two float32 arrays [..., 1, R/2] for R rotated numbers of a head; the axis of size
      1 broadcasts over heads.
    """
    frequencies, scale = rope_frequencies(rope, head_dim)
    angles = jnp.multiply.outer(positions[..., None].astype(jnp.float32), frequencies)
    return jnp.cos(angles) * scale, jnp.sin(angles) * scale


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """The frequency of each pair, float32 [R/2], and the factor on cosine and sine.

    Args:
      rope: the kind and its parameters.
      head_dim: H, of which R numbers are rotated.
    """
    head_dim = rope.num_rotated(head_dim)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    base = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.kind == "default":
        return base, 1.0
    if rope.kind == "linear":
        return (base / np.float32(rope.factor)).astype(np.float32), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, base), 1.0
    if rope.kind == "longrope":
        return _longrope(rope, base)
    if rope.kind == "dynamic":
        return _dynamic(rope, head_dim), 1.0
    return _yarn(rope, base, head_dim)


def _llama3(rope: RopeConfig, base: np.ndarray) -> np.ndarray:
    """Stretches long wavelengths by `factor`, keeps short ones, and interpolates between.

    https://github.com/meta-llama/llama-models/blob/main/models/llama3/model.py
    Llama 4 Scout has no wavelengths between: the two frequency factors are equal.
    """
    wavelength = 2 * np.pi / base
    longest = rope.original_max_position / rope.low_freq_factor
    shortest = rope.original_max_position / rope.high_freq_factor
    stretched = np.where(wavelength > longest, base / rope.factor, base)
    if longest == shortest:
        return stretched.astype(np.float32)
    blend = (rope.original_max_position / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blended = (1 - blend) * base / rope.factor + blend * base
    between = (wavelength <= longest) & (wavelength >= shortest)
    return np.where(between, blended, stretched).astype(np.float32)


def _longrope(rope: RopeConfig, base: np.ndarray) -> tuple[np.ndarray, float]:
    """LongRoPE, https://arxiv.org/abs/2402.13753: a divisor for each pair, found by a search."""
    is_long = rope.context > rope.original_max_position
    divisors = np.asarray(rope.long_factors if is_long else rope.short_factors, np.float32)
    if divisors.shape != base.shape:
        raise ValueError(
            f"longrope needs a factor for each of the {base.size} pairs of a head, got "
            f"{divisors.size}"
        )
    scale = rope.attention_factor
    if scale is None:
        growth = math.log(max(rope.factor, 1)) / math.log(rope.original_max_position)
        scale = math.sqrt(1 + growth)
    return (base / divisors).astype(np.float32), scale


def _dynamic(rope: RopeConfig, num_rotated: int) -> np.ndarray:
    """A theta that grows with the context ("dynamic NTK"), as in transformers."""
    context = max(rope.context, rope.original_max_position)
    growth = rope.factor * context / rope.original_max_position - (rope.factor - 1)
    theta = rope.theta * growth ** (num_rotated / (num_rotated - 2))
    exponents = np.arange(0, num_rotated, 2, dtype=np.float32) / np.float32(num_rotated)
    return (1.0 / np.float32(theta) ** exponents).astype(np.float32)


def _yarn(rope: RopeConfig, base: np.ndarray, head_dim: int) -> tuple[np.ndarray, float]:
    """YaRN, https://arxiv.org/abs/2309.00071, sections 3.2 to 3.4."""

    def dimension_of(rotations: float | int) -> float:  # checked strictly under pytest
        turns = rope.original_max_position / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = max(high - low, 0.001)
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / span, 0, 1)
    frequencies = base / rope.factor * ramp + base * (1 - ramp)

    def mscale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        scale = rope.attention_factor
    elif rope.mscale and rope.mscale_all_dim:
        scale = mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    else:
        scale = mscale(1.0)
    return frequencies.astype(np.float32), scale
