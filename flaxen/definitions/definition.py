"""A model in memory, as made by `flaxen.from_nnx` and the other bridges.

It has the interface of a checkpoint: loads its parameters in the requested form, and a tokenizer.
Deliberately does not know which framework the model was defined in.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxen.hub.resolve import resolve
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, QuantizedLinear
from flaxen.models.layout import param_sharding, param_shardings, weight_shardings
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import compute_params, is_spec, matrices
from flaxen.sharding.parts import Box, assemble, own_boxes
from flaxen.sharding.placement import Placement
from flaxen.tensors.packing.arrays import fill_parts, put_parts
from flaxen.tensors.packing.layout import Layout, num_bytes
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.pack import Packing, quantized_layout
from flaxen.tensors.packing.quantize import quantize
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.form import Form, LoadsParams
from flaxen.weights.reference import Reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Definition(LoadsParams):
    """A model in memory, with what serving and training need beside it.

        model, params = flaxen.from_nnx(module, max_position=2048)
        definition = flaxen.Definition(model=model, params=params, tokenizer="smollm2-135m")
        llm = flaxen.LLM(definition)

    A function that returns one makes FILE.py:FUNCTION a model for every command. The tokenizer is
    loaded, and checked against the model's size, when it is first used.
    """

    model: Model = field(repr=False)  # a notebook that shows a definition is not filled by arrays
    params: Params = field(repr=False)  # plain arrays, in a tree like model.param_specs
    # a directory with tokenizer.json, the name of a model with this tokenizer, or the tokenizer
    tokenizer: Tokenizer | Path | str
    name: str = "model"
    reference: Reference | None = None  # where its code is, if it was made of FILE.py:NAME

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of its floating-point parameters."""
        name = self.model.trained
        leaves = jax.tree.leaves(self.params if name is None else self.params[name])
        kinds = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in leaves]
        floats = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
        found: jnp.dtype = jnp.result_type(*floats)
        return found

    def num_param_bytes(self, form: Form) -> int:
        """The bytes that the parameters will take in memory at most, beside the given ones; on a
        mesh those of one device.
        """
        specs = jax.tree.leaves(self.model.param_specs, is_leaf=is_spec)
        shapes = [spec.shape for spec in specs]
        if form.placement is not None:
            shardings = jax.tree.leaves(param_shardings(self.model.param_specs, form.placement))
            shapes = [
                sharding.shard_shape(shape)
                for sharding, shape in zip(shardings, shapes, strict=True)
            ]
        return sum(_num_bytes(spec, shape, form) for spec, shape in zip(specs, shapes, strict=True))

    def make_tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
          ValueError: its files are missing, damaged or not supported, or it has more tokens than
              the model.
        """
        tokenizer = self._tokenizer()
        _check_tokenizer(tokenizer, self.model.vocab_size, self.name)
        return tokenizer

    def _tokenizer(self) -> Tokenizer:
        if isinstance(self.tokenizer, Tokenizer):
            return self.tokenizer
        directory = Path(os.path.expanduser(self.tokenizer))
        if (directory / "tokenizer.json").is_file():
            return Tokenizer.from_directory(directory)
        return open_checkpoint(resolve(str(self.tokenizer))).make_tokenizer()

    def params_in(self, form: Form, on_progress: Callable[[int, int], None] | None) -> Params:
        """See LoadsParams.load_params."""
        name, params = self.model.trained, self.params
        if form.placement is not None:
            params = _on_mesh(self.model.param_specs, params, form.placement)
        if name is None:
            params = _in_form(self.model.param_specs, params, form)
        else:  # statistics and computed tables keep their precision
            own = self.model.param_specs[name]
            params = {**params, name: _in_form(own, params[name], form)}
        if on_progress is not None:
            total = sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))
            on_progress(total, total)
        return params


def _check_tokenizer(tokenizer: Tokenizer, vocab_size: int, name: str) -> None:
    """Refuses a tokenizer with ids for which the model has no embedding.

    Special tokens may be outside the model, such as those for images in a tokenizer that several
    models share, but not BOS, and not all EOS tokens.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_ids
    needed = max(
        tokenizer.text_vocab_size,
        0 if bos is None else bos + 1,
        min(eos, default=-1) + 1,
    )
    if needed > vocab_size:
        raise ValueError(
            f"the tokenizer of {name!r} has {needed} tokens and the model {vocab_size}: prompts "
            "would have ids that the model knows nothing of. Give the model's own tokenizer, or a "
            "model with as many rows"
        )


def _on_mesh(specs: Any, params: Params, placement: Placement) -> Params:
    """Lays each array over the mesh, in its own dtype. Every process has the whole definition."""

    def one(spec: ParamSpec, sharding: NamedSharding, leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:  # on a mesh already
            moved: jax.Array = jax.device_put(leaf, sharding)
            return moved
        whole = np.asarray(leaf)
        parts = {box: whole[box.slices] for box in own_boxes(sharding, spec.shape)}
        return assemble(spec.shape, sharding, parts, whole.dtype)

    found: Params = jax.tree.map(
        one, specs, param_shardings(specs, placement), params, is_leaf=is_spec
    )
    return found


def _in_form(specs: Any, params: Params, form: Form) -> Params:
    if form.quantization not in ("auto", "none"):
        return jax.tree.map(
            lambda spec, leaf: _quantized(spec, leaf, form), specs, params, is_leaf=is_spec
        )
    if form.placement is None:
        return _cast(specs, params, form, None)
    # One by one: with pipeline stages, the arrays of two layers are on different devices.
    found: Params = jax.tree.map(
        lambda spec, where, leaf: _cast(spec, leaf, form, where),
        specs,
        param_shardings(specs, form.placement),
        params,
        is_leaf=is_spec,
    )
    return found


def _cast(specs: Any, params: Params, form: Form, where: NamedSharding | None) -> Params:
    make = functools.partial(compute_params, specs, dtype=form.dtype, backend=form.backend)
    return jax.jit(make, out_shardings=where)(params)


def _quantized(spec: ParamSpec, leaf: Any, form: Form) -> Any:
    if spec.matrix is None:
        return compute_params(spec, leaf, dtype=form.dtype, backend=Backend.REFERENCE)
    found = {}
    for index, weight in matrices(np.asarray(leaf, np.float32), spec.matrix).items():
        rows = np.ascontiguousarray(weight.T)  # [out, in]
        layout = _layout(spec, rows.shape[1], form)
        make = _packed if form.backend.packs_weights else _plain
        found[index] = make(spec, rows, layout, form)
    return found if spec.matrix.layers is not None else found[0]


def _num_bytes(spec: ParamSpec, shape: tuple[int, ...], form: Form) -> int:
    num_values = math.prod(shape)
    if spec.matrix is None or form.quantization in ("auto", "none"):
        return num_values * form.dtype.itemsize
    num_inputs = math.prod(spec.shape[axis] for axis in spec.matrix.inputs)
    return num_bytes(_layout(spec, num_inputs, form), num_values)


def _layout(spec: ParamSpec, num_inputs: int, form: Form) -> Layout:
    is_table = spec.role == "table"  # four bits are not enough for the logits
    return quantized_layout(form.quantization, num_inputs, backend=form.backend, is_table=is_table)


def _packed(spec: ParamSpec, rows: np.ndarray, layout: Layout, form: Form) -> PackedLinear:
    packing = Packing((rows.shape[0], rows.shape[1]), layout, WeightMemory())
    packing.write_floats(0, rows)
    return packing.finish(jax.device_put)


def _plain(spec: ParamSpec, rows: np.ndarray, layout: Layout, form: Form) -> QuantizedLinear:
    shape = (rows.shape[1], rows.shape[0])
    sharding = None if form.placement is None else param_sharding(spec, form.placement)
    shardings = weight_shardings(spec, sharding, shape[0] // layout.group)
    boxes = [Box((0, 0), shape)]
    if shardings is not None:
        boxes = list(own_boxes(shardings.data, shape))
    parts = fill_parts(shape, layout, boxes, [(0, quantize(rows, layout))])
    return put_parts(parts, shape, layout, shardings, form.placement)
