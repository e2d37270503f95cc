"""The form that stored tensors get as parameters: dtype, layout, sharding, and the bytes of that.

It follows from what computes with them, from the file, and from what the user asked for.
Deliberately does not know file formats, families, or how a tensor is read.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from flaxen.kernels.backend import Backend
from flaxen.models.layout import param_shardings
from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.sharding.placement import Placement
from flaxen.tensors.packing.layout import Layout
from flaxen.tensors.packing.layout import num_bytes as packed_bytes
from flaxen.tensors.packing.pack import QUANTIZATIONS, Quantization, choose_layout
from flaxen.weights.sources import Source
from flaxen.weights.stacks import stack_layout

DTYPES = ("float32", "bfloat16", "float16")
PACKED_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of loaded parameters: dtype, packing, quantization, and where they are.

    Raises:
      ValueError: the dtype or quantization is not supported, or their combination; or packed
          weights are to be divided over a mesh.
    """

    dtype: jnp.dtype  # of parameters that are not quantized
    # What computes with them: it may pack matrices, or take quantized ones as plain arrays.
    backend: Backend = Backend.REFERENCE
    quantization: Quantization = "none"
    placement: Placement | None = None  # the mesh that they are laid over; None is one device

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization {self.quantization!r} is not supported: use one of "
                f"{', '.join(QUANTIZATIONS)}"
            )
        packs = self.backend.packs_weights
        if packs and self.placement is not None:
            raise ValueError(
                f"the backend {self.backend.value} computes on one device, and the mesh is "
                f"{self.placement.shape}: use the backend reference, or no mesh"
            )
        known = PACKED_DTYPES if packs else DTYPES
        if self.dtype.name not in known:
            raise ValueError(f"dtype {self.dtype.name} is not supported: use {', '.join(known)}")


def num_bytes(specs: Any, sources: list[Source], form: Form) -> int:
    """The bytes of the loaded parameters, without padding; on a mesh the most of one device."""
    found: Counter[Any] = Counter()
    for source, sharding in zip(sources, shardings_of(specs, sources, form), strict=True):
        shape = source.spec.shape
        if sharding is None:
            found[None] += _num_bytes(source, shape, form)
            continue
        part = _num_bytes(source, sharding.shard_shape(shape), form)
        found.update(dict.fromkeys(sharding.device_set, part))
    return max(found.values(), default=0)


def shardings_of(specs: Any, sources: list[Source], form: Form) -> list[NamedSharding | None]:
    """The sharding of each source's parameter; None is the default device."""
    if form.placement is None:
        return [None] * len(sources)
    return jax.tree.leaves(param_shardings(specs, form.placement))


def _num_bytes(source: Source, shape: tuple[int, ...], form: Form) -> int:
    num_values = math.prod(shape)
    layout = layout_of(source, form)
    if layout is None:
        return num_values * dtype_of(source.spec, form).itemsize
    return packed_bytes(layout, num_values)


def dtype_of(spec: ParamSpec, form: Form) -> jnp.dtype:
    """The dtype of a parameter that is not quantized."""
    return jnp.dtype(jnp.float32) if spec.is_wide else form.dtype


def layout_of(source: Source, form: Form) -> Layout | None:
    """The layout of a parameter that is packed or quantized; None for a plain array."""
    spec = source.spec
    if spec.matrix is None and not spec.is_stack:
        return None
    choose = functools.partial(
        choose_layout,
        dtype=dtype_of(spec, form),
        quantization="none" if spec.is_wide else form.quantization,
        backend=form.backend,
        is_table=spec.role == "table",
    )
    layout = stack_layout(source.experts, choose) if spec.is_stack else choose(source.matrix)
    return layout if form.backend.packs_weights or layout.scale_dtype is not None else None


class LoadsParams(ABC):
    """Whatever a model's parameters are loaded from."""

    def load_params(
        self,
        dtype: jnp.dtype,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        backend: Backend = Backend.REFERENCE,
        quantization: Quantization = "none",
        placement: Placement | None = None,
    ) -> Params:
        """Loads the parameters in a tree like model.param_specs.

        Args:
          dtype: the dtype of arrays that are not quantized: float32, bfloat16 or, if not packed,
              float16.
          on_progress: called with the bytes read and the total bytes.
          backend: what will compute with them. If it packs weights, True makes each matrix a
              flaxen.kernels.linear.packed.PackedLinear [in, out], including the embedding (whose
              rows are outputs); False gives plain arrays.
          quantization: of packed matrices. "auto" keeps the file's quantization; "none"
              dequantizes, as plain arrays always are; "int8" and "int4" quantize all matrices. See
              docs/decisions/0051-quantized-weights.md.
          placement: the mesh that they are laid over: each device's part is read by itself, and
              only on the process that has the device. None is the default device.

        Raises:
          ValueError: the dtype or quantization is not supported, weights can't be quantized, a
              file has changed since it was opened, or the backend can't use a mesh.
        """
        form = Form(
            dtype=jnp.dtype(dtype),
            backend=backend,
            quantization=quantization,
            placement=placement,
        )
        return self.params_in(form, on_progress)

    @abstractmethod
    def params_in(self, form: Form, on_progress: Callable[[int, int], None] | None) -> Params:
        """See `load_params`."""
