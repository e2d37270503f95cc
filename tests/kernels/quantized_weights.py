"""Random quantized weights for tests of the kernels that multiply with them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from flaxen.kernels.linear import QuantizedLinear


class Kind(NamedTuple):
    """A form of a quantized weight."""

    format: str
    group: int | None  # inputs; None is one group
    scale_dtype: type
    has_mins: bool = False
    zero: int = 0


KINDS = {
    "int8": Kind("int8", None, np.float32),
    "int8 in groups": Kind("int8", 32, np.float16),  # as Q8_0
    "int4 in groups": Kind("int4", 32, np.float16),  # as Q4_0
    "int4 with mins": Kind("int4", 32, np.float16, True, -8),  # as Q4_1
    "int4 with wide mins": Kind("int4", 32, np.float32, True, -8),  # as Q4_K
    "int4 in groups of 128": Kind("int4", 128, np.float32),
    "float8": Kind("float8", None, np.float32),
    "float8 in groups": Kind("float8", 128, np.float32),
    "float4": Kind("float4", 32, ml_dtypes.bfloat16),
}


def data_dtype(kind: Kind) -> jnp.dtype:
    """The dtype of the numbers' array."""
    names = {"float8": "float8_e4m3fn", "float4": "int4"}
    return jnp.dtype(names.get(kind.format, kind.format))


def random_weight(kind: Kind, num_inputs: int, num_outputs: int, seed: int = 0) -> QuantizedLinear:
    """A weight [I, O] whose values are about as large as those of a model."""
    rng = np.random.default_rng([seed, num_inputs, num_outputs])
    most = 8 if kind.format in ("int4", "float4") else 128
    numbers = rng.integers(-most, most, (num_inputs, num_outputs)).astype(np.int8)
    groups = num_inputs // (kind.group or num_inputs)
    # Some scales are float16's subnormal numbers.
    scales = 10.0 ** rng.uniform(-7, -1, (groups, num_outputs)) / most
    mins = rng.normal(size=scales.shape) / 10 if kind.has_mins else None
    if kind.format == "float4":
        scales = 2.0 ** np.floor(np.log2(scales))
    return QuantizedLinear(
        data=jnp.asarray(numbers).astype(data_dtype(kind)),
        scales=jnp.asarray(scales.astype(kind.scale_dtype)),
        is_e2m1=kind.format == "float4",
        mins=None if mins is None else jnp.asarray(mins.astype(kind.scale_dtype)),
        zero=kind.zero,
    )


def random_rows(num_rows: int, num_inputs: int, dtype: str = "float32") -> jax.Array:
    """Activations [M, I]."""
    rng = np.random.default_rng([num_rows, num_inputs])
    return jnp.asarray(rng.normal(size=(num_rows, num_inputs)).astype(np.float32), dtype)
