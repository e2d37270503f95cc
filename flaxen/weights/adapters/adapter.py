"""A single LoRA adapter as NumPy arrays on the host, and merging it into weights.

Deliberately does not know files, training or serving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.linear import LinearWeight, PackedLinear, Weight
from flaxen.kernels.linear.packed import pack, unpack
from flaxen.models.adapters import Adapters, LoraConfig, adapter_shapes
from flaxen.models.model import Model, Params
from flaxen.models.params import from_matrices, is_spec, matrices

Layer = Mapping[str, Mapping[str, np.ndarray]]  # {"wq": {"a": [I, R], "b": [R, O]}, ...}, float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """An adapter's configuration and weights, with one dict of targets for each layer.

    Raises:
      ValueError: the arrays are not float32, or do not match the configuration's rank and targets.
    """

    config: LoraConfig
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if unknown := sorted(set(layer) - set(self.config.targets)):
                raise ValueError(
                    f"layer {index} of the adapter has {', '.join(unknown)}, and its configuration "
                    f"says {', '.join(self.config.targets)}: name all targets there"
                )
            for name, each in layer.items():
                self._check(f"layer {index}, {name}", each["a"], each["b"])

    def _check(self, where: str, a: np.ndarray, b: np.ndarray) -> None:
        rank = self.config.rank
        if a.dtype != np.float32 or b.dtype != np.float32:
            raise ValueError(f"{where}: adapters are float32, got a {a.dtype} and b {b.dtype}")
        are_pair = a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2] and a.ndim in (2, 3)
        if not are_pair or a.shape[-1] != rank or b.shape[-2] != rank:
            raise ValueError(
                f"{where}: a must be [in, {rank}] and b [{rank}, out] for the rank {rank}, or with "
                f"one axis of experts in front, got {list(a.shape)} and {list(b.shape)}"
            )

    def content_key(self) -> str:
        """A hash of all that the adapter computes with."""
        found = hashlib.sha256(repr(self.config).encode())
        for path, array in jax.tree_util.tree_leaves_with_path(self.layers):
            found.update(f"{jax.tree_util.keystr(path)} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @property
    def tree(self) -> Adapters:
        """The arrays in the tree of models/adapters.py, without the leading axis of a stack."""
        return {"layers": self.layers}

    @property
    def num_bytes(self) -> int:
        """The bytes of all its arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.tree))


def from_stack(config: LoraConfig, stack: Adapters, index: int = 0) -> Adapter:
    """Copies one adapter of a stack to the host.

    Args:
      config: the configuration of the stack's adapters.
      stack: a stack with leading axes n.
      index: below n.
    """
    layers = jax.tree.map(lambda leaf: np.array(leaf[index], np.float32), stack["layers"])
    return Adapter(config=config, layers=tuple(layers))


def check_adapter(adapter: Adapter, model: Model) -> None:
    """Refuses an adapter of another model.

    Raises:
      ValueError: the number of layers, or the shape of a matrix differs.
    """
    expected = adapter_shapes(model, adapter.config)["layers"]
    if len(adapter.layers) != len(expected):
        raise ValueError(
            f"the adapter has {len(adapter.layers)} layers and the model {len(expected)}: it was "
            "made for another model"
        )
    for index, (layer, shapes) in enumerate(zip(adapter.layers, expected, strict=True)):
        for name, each in layer.items():
            found = {part: array.shape for part, array in each.items()}
            if found != shapes[name]:
                raise ValueError(
                    f"layer {index}, {name}: the adapter has {found} and the model needs "
                    f"{shapes[name]}: it was made for another model"
                )


def merge_weight(
    weight: np.ndarray, ab: Mapping[str, np.ndarray], scale: float, *, is_swapped: bool = False
) -> np.ndarray:
    """weight + scale * a @ b, computed in float32 and rounded once to the weight's dtype.

    Args:
      weight: [I, O], or experts [E, I, O].
      ab: a [I, R] and b [R, O], with the same axis in front.
      scale: the adapter's.
      is_swapped: the weight and the result are [O, I], as in files. The bits are the same.
    """
    product: np.ndarray = ab["a"] @ ab["b"]
    if is_swapped:  # copied, because a sum over two orders of axes takes ten times as long
        product = np.ascontiguousarray(product.swapaxes(-1, -2))
    return (weight.astype(np.float32) + np.float32(scale) * product).astype(weight.dtype)


def merge_adapter(params: Params, adapter: Adapter) -> Params:
    """Merges an adapter into the weights; they keep their form and dtype.

    Raises:
      ValueError: a weight is quantized: rounding would lose most of the adapter.
    """

    def merged(name: str, weight: Weight, layer: Layer) -> Weight:
        if name not in layer:
            return weight
        if isinstance(weight, LinearWeight) and weight.scales is not None:
            raise ValueError(
                f"{name} is quantized ({weight.format}), so an adapter can't be merged into it: "
                "load the model with quantization none"
            )
        plain = unpack(weight) if isinstance(weight, PackedLinear) else weight
        dense = jnp.asarray(merge_weight(np.asarray(plain), layer[name], adapter.config.scale))
        return pack(dense) if isinstance(weight, PackedLinear) else dense

    if adapter.config.is_of_definition:
        raise ValueError("the adapter is of a definition, which merge_into_definition merges")
    layers = tuple(
        {name: merged(name, weight, own) for name, weight in layer.items()}
        for layer, own in zip(params["layers"], adapter.layers, strict=True)
    )
    return {**params, "layers": layers}


def merge_into_definition(
    model: Model, params: Params, adapter: Adapter, dtype: np.dtype | None = None
) -> Params:
    """Merges an adapter into the plain parameters of a definition.

    Args:
      model: the definition's model.
      params: its parameters.
      adapter: its targets are paths in them.
      dtype: the dtype of merged parameters; None is their own.

    Raises:
      ValueError: the adapter is another model's.
    """
    check_adapter(adapter, model)
    (pairs,) = adapter.layers
    specs = {
        jax.tree_util.keystr(path): spec
        for path, spec in jax.tree.flatten_with_path(model.param_specs, is_leaf=is_spec)[0]
    }

    def merged(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        matrix = specs[name].matrix if name in specs else None
        if matrix is None:
            return leaf
        values = np.asarray(leaf, np.float32)
        weights = matrices(values, matrix)
        targets = {i: name if matrix.layers is None else f"{name}[{i}]" for i in weights}
        if not any(target in pairs for target in targets.values()):
            return leaf
        for index, target in targets.items():
            if target in pairs:
                weights[index] = merge_weight(weights[index], pairs[target], adapter.config.scale)
        return jnp.asarray(from_matrices(weights, matrix, leaf.shape).astype(dtype or leaf.dtype))

    found: Params = jax.tree_util.tree_map_with_path(merged, params)
    return found
