"""Quantizes a decoder layer by layer, by the inputs that its weights meet on calibration texts.

Each layer sees what the quantized layers before it make of the texts, so that it can make good
their errors. Deliberately does not know files, nor how a weight is rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.models.attention_impls import causal
from flaxen.models.config import DecoderConfig
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.quantizing import gptq
from flaxen.quantizing.observe import observed
from flaxen.quantizing.schemes import Quantized, Scheme, round_to_nearest

METHODS = ("gptq", "rtn")
OnLayer = Callable[[int, int], None]  # (layers done, layers in total)
_BACKEND = Backend.REFERENCE


class Texts(NamedTuple):
    """Some rows of calibration tokens, as training packs them; arrays of NumPy or JAX."""

    tokens: Any  # int32 [B, T]; -1 is padding
    positions: Any  # int32 [B, T]
    segment_ids: Any  # int32 [B, T]


def weight_names(specs: Mapping[str, ParamSpec]) -> list[str]:
    """The parameters of a layer that are quantized: matrices [in, out]."""
    return sorted(
        name for name, spec in specs.items() if spec.role == "matrix" and len(spec.shape) == 2
    )


def input_sizes(model: Model) -> set[int]:
    """The different numbers of inputs of the weights that are quantized."""
    return {
        specs[name].shape[0]
        for specs in model.param_specs["layers"]
        for name in weight_names(specs)
    }


def quantize_layers(
    model: Model,
    config: DecoderConfig,
    params: Params,
    texts: Sequence[Texts],
    scheme: Scheme,
    on_layer: OnLayer,
) -> list[dict[str, Quantized]]:
    """Quantizes the matrices of all layers by GPTQ.

    Args:
      model: the decoder of the configuration.
      config: its configuration.
      params: its parameters as plain float32 arrays; not changed.
      texts: the calibration tokens.
      scheme: how weights are quantized.
      on_layer: called after each layer.

    Returns:
      For each layer its weights by name, [out, in].

    Raises:
      ValueError: the inputs of a weight are not finite.
    """
    assert model.in_layers is not None, "the model does not run layer by layer"
    first, run = model.in_layers.first_on, model.in_layers.layer_on
    texts = [Texts(*map(jnp.asarray, each)) for each in texts]
    begun = [first(_BACKEND, params, each.tokens, each.positions, None) for each in texts]
    inputs, shared = [x for x, _ in begun], [each for _, each in begun]
    found = []
    for number, layer in enumerate(params["layers"]):
        names = tuple(weight_names(model.param_specs["layers"][number]))
        like = config.layers.index(config.layers[number])  # equal layers are compiled once
        grams: dict[str, np.ndarray] = {}
        for x, beside, each in zip(inputs, shared, texts, strict=True):
            for name, gram in _grams(run, like, names, layer, x, beside, each.segment_ids).items():
                grams[name] = grams.get(name, 0) + np.asarray(gram, np.float64)
        known = _known_inputs(number, grams)
        quantized = {name: _quantize(_rows(layer[name]), known.get(name), scheme) for name in names}
        values = {name: jnp.asarray(each.values.T) for name, each in quantized.items()}
        inputs = [
            _forward(run, like, {**layer, **values}, x, beside, each.segment_ids)
            for x, beside, each in zip(inputs, shared, texts, strict=True)
        ]
        found.append(quantized)
        on_layer(number + 1, len(params["layers"]))
    return found


def round_layers(
    model: Model, params: Params, scheme: Scheme, on_layer: OnLayer
) -> list[dict[str, Quantized]]:
    """Quantizes the matrices of all layers by rounding to nearest; see `quantize_layers`."""
    found = []
    for number, layer in enumerate(params["layers"]):
        names = weight_names(model.param_specs["layers"][number])
        found.append({name: round_to_nearest(_rows(layer[name]), scheme) for name in names})
        on_layer(number + 1, len(params["layers"]))
    return found


def _known_inputs(number: int, grams: Mapping[str, np.ndarray]) -> dict[str, gptq.Inputs]:
    """The inputs of each weight; weights of the same inputs (query, key and value) share them."""
    found: dict[str, gptq.Inputs] = {}
    for name, gram in grams.items():
        same = (inputs for other, inputs in found.items() if np.array_equal(grams[other], gram))
        try:
            found[name] = next(same, None) or gptq.inputs_of(gram)
        except ValueError as error:
            raise ValueError(f"{name} of layer {number}: {error}") from None
    return found


def _quantize(weight: np.ndarray, inputs: gptq.Inputs | None, scheme: Scheme) -> Quantized:
    if inputs is None:  # the weight met no plain product that could be observed
        return round_to_nearest(weight, scheme)
    return gptq.quantize(weight, inputs, scheme)


def _rows(weight: jax.Array) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(weight, np.float32).T)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _grams(
    run: Callable[..., Any],
    number: int,
    names: tuple[str, ...],
    layer: Params,
    x: jax.Array,
    shared: Any,
    segment_ids: jax.Array,
) -> dict[str, jax.Array]:
    others = {name: value for name, value in layer.items() if name not in names}

    def forward(weights: Any, others: Any, x: jax.Array, shared: Any) -> Any:
        attend = causal(segment_ids, _BACKEND)
        return run(_BACKEND, number, {**weights, **others}, x, shared, attend, None)[0]

    _, grams = observed(forward, {name: layer[name] for name in names}, others, x, shared)
    return grams


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    run: Callable[..., Any],
    number: int,
    layer: Params,
    x: jax.Array,
    shared: Any,
    segment_ids: jax.Array,
) -> jax.Array:
    attend = causal(segment_ids, _BACKEND)
    out: jax.Array = run(_BACKEND, number, layer, x, shared, attend, None)[0]
    return out
