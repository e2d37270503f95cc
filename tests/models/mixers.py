"""Small models: of every mixer that keeps a state, with attention; and of Mamba-2 alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.gated_delta import GatedDelta
from flaxen.models.layers.mamba2 import Mamba2
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.short_conv import ShortConv
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.models.rope_config import RopeConfig

NORM = Norm(eps=1e-3)
CONV = ShortConv(num_channels=24, num_taps=3, has_bias=True)
DELTA = GatedDelta(
    num_key_heads=2, num_value_heads=4, key_dim=6, value_dim=10, num_taps=4, norm_eps=1e-3
)
MAMBA = Mamba2(num_heads=4, head_dim=6, num_groups=2, state_dim=5, num_taps=4, norm_eps=1e-3)
ATTENTION = Attention(num_heads=4, num_kv_heads=2, head_dim=6, rope=RopeConfig())
MODEL = decoder(
    DecoderConfig(
        vocab_size=50,
        model_dim=24,
        layers=tuple(
            LayerConfig(mixer=mixer, mlp=mlp, norm=NORM)
            for mixer, mlp in (
                (CONV, DenseMlp(mlp_dim=20)),
                (DELTA, DenseMlp(mlp_dim=20)),
                (ATTENTION, DenseMlp(mlp_dim=20)),
                (MAMBA, None),
            )
        ),
        final_norm=NORM,
        max_position=64,
    )
)
ALONE = decoder(
    DecoderConfig(
        vocab_size=50,
        model_dim=24,
        layers=(LayerConfig(mixer=MAMBA, mlp=None, norm=NORM),) * 2,
        final_norm=NORM,
        max_position=64,
    )
)


def params_of(model: Model) -> Params:
    """Parameters whose logits differ from token to token, drawn by NumPy: that compiles nothing."""
    rng = np.random.default_rng(1)

    def one(spec: ParamSpec) -> jax.Array:
        if spec.init in ("ones", "zeros"):
            values = np.full(spec.shape, spec.init == "ones")
        elif spec.init == "decay":
            values = np.log(np.linspace(1, 16, spec.shape[0]))
        elif spec.init == "time_step":
            values = np.linspace(-7, -2, spec.shape[0])
        else:
            values = rng.normal(0, 0.8 if spec.role in ("matrix", "table") else 0.3, spec.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(one, model.param_specs, is_leaf=is_spec)
