"""A small transformer in stock Flax Linen: a scan over remat layers, dropout, logical axes."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax


class Block(nn.Module):
    dim: int
    num_heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, None]:
        dense = functools.partial(
            nn.Dense,
            kernel_init=nn.with_logical_partitioning(
                nn.initializers.lecun_normal(), ("model", "mlp")
            ),
        )
        h = nn.LayerNorm()(x)
        h = nn.MultiHeadDotProductAttention(self.num_heads)(h, mask=mask)
        x = x + nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = nn.gelu(dense(4 * self.dim)(nn.LayerNorm()(x)))
        h = nn.Dense(self.dim)(h)
        return x + nn.Dropout(self.dropout)(h, deterministic=deterministic), None


class Transformer(nn.Module):
    vocab_size: int = 272
    dim: int = 64
    num_layers: int = 3
    num_heads: int = 4
    max_position: int = 128
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        embed = nn.Embed(self.vocab_size, self.dim)
        x = embed(tokens) + nn.Embed(self.max_position, self.dim)(positions)
        layers = nn.scan(
            nn.remat(Block, static_argnums=(3,)),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = layers(self.dim, self.num_heads, self.dropout)(
            x, nn.make_causal_mask(tokens), deterministic
        )
        return embed.attend(nn.LayerNorm()(x))
