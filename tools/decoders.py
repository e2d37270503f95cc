"""Plain decoders from their sizes, for tests and tools. Knows no family and no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.layers.norm import Norm
from flaxen.models.rope_config import RopeConfig


def uniform_decoder(
    *,
    vocab_size: int,
    model_dim: int,
    mlp_dim: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    norm_eps: float = 1e-5,
    rope: RopeConfig = RopeConfig(),  # noqa: B008 (a frozen value)
    windows: Sequence[int | None] = (),
    biases: tuple[str, ...] = (),
    qk_norm: bool = False,
    tied_embeddings: bool = False,
    max_position: int = 2048,
) -> DecoderConfig:
    """A decoder of equal layers: RMS norms before attention with rope and a SiLU-gated MLP.

    Args:
      vocab_size: V.
      model_dim: D.
      mlp_dim: F.
      num_layers: L.
      num_heads: of queries.
      num_kv_heads: of keys and values.
      head_dim: H.
      norm_eps: of all norms.
      rope: of all layers.
      windows: each layer's sliding window, in tokens; () for none.
      biases: the weights with a bias, such as "wq" or "w_down".
      qk_norm: an RMS norm of each query and key head, before rope.
      tied_embeddings: the unembedding is the embedding.
      max_position: tokens.

    Raises:
      ValueError: a size is not above 0, or there is not one window for each layer.
    """
    if num_layers <= 0:
        raise ValueError(f"num_layers must be above 0, got {num_layers}")
    own = tuple(windows) or (None,) * num_layers
    if len(own) != num_layers:
        raise ValueError(f"windows has {len(own)} entries for {num_layers} layers")
    norm = Norm(eps=norm_eps)
    mlp = DenseMlp(mlp_dim=mlp_dim, biases=tuple(each for each in biases if each[:2] == "w_"))
    attention = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=rope,
        biases=tuple(each for each in biases if each[:2] != "w_"),
        qk_norm=QkNorm(norm=norm) if qk_norm else None,
    )
    return DecoderConfig(
        vocab_size=vocab_size,
        model_dim=model_dim,
        layers=tuple(
            LayerConfig(mixer=replace(attention, window=window), mlp=mlp, norm=norm)
            for window in own
        ),
        final_norm=norm,
        tied_embeddings=tied_embeddings,
        max_position=max_position,
    )
