"""A tiny decoder with experts: a dense layer, and two with a router, shared experts and biases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.expert_kernels.experts import ExpertsSpec, Gate
from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.model import Params
from flaxen.models.params import compute_params, is_spec
from tools.decoders import uniform_decoder

_DENSE = uniform_decoder(
    vocab_size=61, model_dim=24, mlp_dim=40, num_layers=3, num_heads=3, num_kv_heads=1, head_dim=8
)
_PLAIN = Experts(num_experts=5, mlp_dim=20, routing=RoutingSpec(k=2))
_RICH = Experts(
    num_experts=5,
    mlp_dim=12,
    routing=RoutingSpec(k=3, score="sigmoid", epsilon=1e-20, scale=1.5),
    spec=ExpertsSpec(gate=Gate(alpha=1.7, limit=2.0, offset=1.0)),
    has_biases=True,
    router_bias=True,
    selection_bias=True,
    shared=DenseMlp(mlp_dim=16),
    shared_gate=True,
)
CONFIG = _DENSE.with_layers(
    lambda number, layer: layer if number == 0 else replace(layer, mlp=(_PLAIN, _RICH)[number - 1])
)
MODEL = decoder(CONFIG)


def random_params(seed: int = 0) -> Params:
    """Random float32 weights, under which tokens choose all experts."""
    rng = np.random.default_rng(seed)

    def random(spec: Any) -> jax.Array:
        values = rng.standard_normal(spec.shape).astype(np.float32)
        if spec.role == "vector":
            return jnp.asarray((spec.init == "ones") + 0.3 * values)
        return jnp.asarray(values * 1.5 / np.sqrt(spec.shape[-2] if spec.role != "table" else 1))

    return jax.tree.map(random, MODEL.param_specs, is_leaf=is_spec)


def params_for(backend: Backend, dtype: str = "float32") -> Params:
    """The parameters in a backend's form."""
    specs = MODEL.param_specs
    return compute_params(specs, random_params(), dtype=jnp.dtype(dtype), backend=backend)
