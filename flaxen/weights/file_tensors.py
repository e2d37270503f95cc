"""Makes the tensors of a file from a model's parameters, which are read only when they are written.

The parameters may be in files or in memory, and adapters may be merged into them on the way. A
model is never held whole for that. Deliberately does not know formats, nor how files are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from flaxen.families.rules import Rules
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.model import Params
from flaxen.models.params import is_spec, plain_param
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import transposed
from flaxen.weights.adapters.adapter import Adapter, merge_weight
from flaxen.weights.rules import SizesOf, place_rules, scopes, write_tensors
from flaxen.weights.sources import Source

# (layer's number or None, parameter's name, whether its last two axes are swapped) -> its rows
ParamRows = Callable[[int | None, str, bool], StoredTensor]


def rows_of_sources(specs: Any, sources: Sequence[Source]) -> ParamRows:
    """The rows of parameters in files, exactly as the files have them; quantized ones stand for
    their float32 values, which are not rounded.

    Args:
      specs: the decoder's tree of ParamSpec.
      sources: one for each leaf, in order.
    """
    tree = jax.tree.unflatten(jax.tree.structure(specs, is_leaf=is_spec), sources)
    parts = dict(scopes(tree))

    def rows(layer: int | None, param: str, is_swapped: bool) -> StoredTensor:
        source = parts[layer][param]
        return source.stored if source.transposed == is_swapped else transposed(source.stored)

    return rows


def rows_of_params(specs: Any, params: Params) -> ParamRows:
    """The rows of parameters in memory, plain or packed.

    Args:
      specs: the decoder's tree of ParamSpec.
      params: the parameters.
    """
    parts, specs_of = dict(scopes(params)), dict(scopes(specs))

    def rows(layer: int | None, param: str, is_swapped: bool) -> StoredTensor:
        spec, leaf = specs_of[layer][param], parts[layer][param]
        shape = (*spec.shape[:-2], *spec.shape[:-3:-1]) if is_swapped else spec.shape

        def read(start: int, stop: int) -> np.ndarray:
            values = np.asarray(plain_param(spec, leaf))
            rows: np.ndarray = (values.swapaxes(-1, -2) if is_swapped else values)[start:stop]
            return rows

        # Read whole, because a packed weight is unpacked by each reading.
        return StoredTensor(
            name=param,
            shape=shape,
            dtype="",
            num_bytes=num_bytes(leaf),
            read=read,
            row_unit=shape[0],
        )

    return rows


def with_adapter(rows: ParamRows, adapter: Adapter) -> ParamRows:
    """Merges an adapter of the decoder: rows in float32, computed by `merge_weight`, for the caller
    to round.
    """

    def merged(layer: int | None, param: str, is_swapped: bool) -> StoredTensor:
        stored = rows(layer, param, is_swapped)
        if layer is None or param not in adapter.layers[layer]:
            return stored
        pair = adapter.layers[layer][param]
        num_rows = stored.shape[0]

        def read(start: int, stop: int) -> np.ndarray:
            weight = stored.read(0, num_rows).astype(np.float32)
            found = merge_weight(weight, pair, adapter.config.scale, is_swapped=is_swapped)
            return found[start:stop]

        # Read whole, so that one matrix product makes all rows, whatever their number: the bits of
        # a product may depend on its shape.
        return replace(stored, read=read, quantized=None, blocks=None, row_unit=num_rows)

    return merged


def file_tensors(rules: Rules, specs: Any, sizes: SizesOf, rows: ParamRows) -> list[StoredTensor]:
    """The tensors that a file of a model has, with their names in the file.

    Args:
      rules: a family's rules for the file's format.
      specs: the decoder's tree of ParamSpec.
      sizes: DecoderConfig.sizes.
      rows: the parameters.
    """
    found = []
    for place in place_rules(rules, specs, sizes):
        params = [rows(place.layer, name, place.rule.transposed) for name in place.rule.params]
        written = write_tensors(place.rule.steps, params, place.sizes)
        found += [
            replace(each, name=name) for name, each in zip(place.shapes, written, strict=True)
        ]
    return found
