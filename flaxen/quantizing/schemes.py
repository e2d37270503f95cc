"""The schemes in which weights are quantized: the numbers, their scales, and compressed-tensors'
words for both.

https://github.com/vllm-project/compressed-tensors. Deliberately does not know models or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

GROUPS = (128, 64, 32)  # inputs that share a scale: what vLLM's kernels have
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
# The shares of the largest scale (which reaches a group's largest number) that 4 bits try.
_PARTS = (1.05, 1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Symmetric numbers with a scale for each output, or for each group of its inputs."""

    name: str
    bits: int
    is_float: bool
    lowest: float  # of the numbers
    highest: float
    group: int | None = None  # inputs; None: all of an output

    @property
    def format(self) -> str:
        """compressed-tensors' name of how the numbers lie in the file."""
        if self.is_float:
            return "float-quantized"
        return "pack-quantized"

    def config_group(self) -> dict[str, Any]:
        """The scheme in config_groups of quantization_config."""
        return {
            "targets": ["Linear"],
            "weights": {
                "num_bits": self.bits,
                "type": "float" if self.is_float else "int",
                "symmetric": True,
                "strategy": "channel" if self.group is None else "group",
                "group_size": self.group,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
        }

    def scales(self, weight: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        """The scale of each group, rounded as files have it.

        The largest number of a group decides it. With four bits, products are better off where a
        few large numbers are clipped: of some scales, that of the least squared error is taken.

        Args:
          weight: float32 [out, in].
          importance: float32 [in]: what a squared error of each input counts. None: it is not
              known, and nothing is clipped.

        Returns:
          float32 [out, groups]: bfloat16 numbers, above 0.
        """
        num_outputs, num_inputs = weight.shape
        groups = weight.reshape(num_outputs, -1, self.group or num_inputs)
        span = (self.highest - self.lowest) / 2  # four bits reach from -8 to 7
        full = np.abs(groups).max(axis=2, keepdims=True) / np.float32(span)
        if self.bits > 4 or importance is None:
            return _stored(full)[:, :, 0]
        counts = importance.reshape(groups.shape[1:])
        found, least = _stored(full), np.full(full.shape, np.inf, np.float32)
        for part in _PARTS:
            scales = _stored(full * np.float32(part))
            errors = np.square(self.numbers(groups, scales) * scales - groups)
            total = (errors * counts).sum(axis=2, keepdims=True)
            found = np.where(total < least, scales, found)
            least = np.minimum(total, least)
        return found[:, :, 0]

    def numbers(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The nearest numbers of the scheme, as float32."""
        scaled = np.clip(values / scales, self.lowest, self.highest)
        found: np.ndarray = scaled.astype(FLOAT8) if self.is_float else np.rint(scaled)
        return found.astype(np.float32)


SCHEMES = {
    "int8": Scheme(name="int8", bits=8, is_float=False, lowest=-128, highest=127),
    "int4": Scheme(name="int4", bits=4, is_float=False, lowest=-8, highest=7, group=GROUPS[0]),
    "fp8": Scheme(name="fp8", bits=8, is_float=True, lowest=-448, highest=448),
}


def choose_scheme(name: str, group: int | None, num_inputs: set[int]) -> Scheme:
    """A scheme whose groups divide the inputs of all weights.

    Args:
      name: of SCHEMES.
      group: the inputs that share a scale, for int4; None takes the largest of GROUPS that fits.
      num_inputs: the different numbers of inputs that the weights have.

    Raises:
      ValueError: there is no such scheme, or no group divides the inputs.
    """
    if name not in SCHEMES:
        raise ValueError(f"the scheme {name!r} is not supported: use one of {', '.join(SCHEMES)}")
    scheme = SCHEMES[name]
    if scheme.group is None:
        if group is not None:
            raise ValueError(
                f"--group-size is for int4, and {name} has one scale for each output: leave it out"
            )
        return scheme
    fits = [each for each in GROUPS if not any(inputs % each for inputs in num_inputs)]
    if group is not None and group not in fits:
        raise ValueError(
            f"groups of {group} inputs do not divide all weights, which have "
            f"{', '.join(map(str, sorted(num_inputs)))}: "
            + (f"use {' or '.join(map(str, fits))}" if fits else "use --scheme int8 or fp8")
        )
    if not fits:
        raise ValueError(
            f"int4 needs weights whose inputs are a multiple of {GROUPS[-1]}, and the model has "
            f"{', '.join(map(str, sorted(num_inputs)))}: use --scheme int8 or fp8"
        )
    return replace(scheme, group=fits[0] if group is None else group)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A weight [out, in] in a scheme: value(o, i) = numbers(o, i) * scales(o, i // group)."""

    numbers: np.ndarray  # float32 [out, in]: whole numbers, or those of float8
    scales: np.ndarray  # float32 [out, groups]: bfloat16 numbers

    @property
    def spread_scales(self) -> np.ndarray:
        """The scale of each number, [out, in]."""
        return np.repeat(self.scales, self.numbers.shape[1] // self.scales.shape[1], axis=1)

    @property
    def values(self) -> np.ndarray:
        """What the weight stands for, float32 [out, in]."""
        found: np.ndarray = self.numbers * self.spread_scales
        return found


def round_to_nearest(weight: np.ndarray, scheme: Scheme) -> Quantized:
    """Quantizes a weight without calibration.

    Args:
      weight: float32 [out, in].
      scheme: whose groups divide `in`.
    """
    found = Quantized(numbers=np.empty_like(weight), scales=scheme.scales(weight))
    found.numbers[:] = scheme.numbers(weight, found.spread_scales)
    return found


def _stored(scales: np.ndarray) -> np.ndarray:
    """Scales as files have them; 1 for a group of zeros."""
    rounded = scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    return np.where(rounded == 0, np.float32(1), rounded)
