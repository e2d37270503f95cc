"""The features of a decoder of equal layers as one flat list, for tests that change some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flaxen.families import hf
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.rope_config import RopeConfig
from tools.decoders import uniform_decoder


@dataclass(frozen=True, kw_only=True)
class Features:
    """The arguments of `uniform_decoder`."""

    vocab_size: int
    model_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeConfig | None
    windows: tuple[int | None, ...]
    biases: tuple[str, ...]
    qk_norm: bool
    tied_embeddings: bool
    max_position: int


def features(config: DecoderConfig) -> Features:
    """The features of a configuration, from its first layer."""
    mixer, mlp = hf.first(config, Attention), hf.first(config, DenseMlp)
    return Features(
        vocab_size=config.vocab_size,
        model_dim=config.model_dim,
        mlp_dim=mlp.mlp_dim,
        num_layers=len(config.layers),
        num_heads=mixer.num_heads,
        num_kv_heads=mixer.num_kv_heads,
        head_dim=mixer.head_dim,
        norm_eps=config.final_norm.eps,
        rope=mixer.rope,
        windows=hf.windows(config),
        biases=mixer.biases + mlp.biases,
        qk_norm=mixer.qk_norm is not None,
        tied_embeddings=config.tied_embeddings,
        max_position=config.max_position,
    )


def with_features(config: DecoderConfig, **changes: Any) -> DecoderConfig:
    """A decoder of equal layers with some of its features changed."""
    found = uniform_decoder(**vars(replace(features(config), **changes)))
    assert changes or found == config, "the decoder has more features than these"
    return found
