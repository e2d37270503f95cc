"""The interface of every model, whatever it was written in.

Knows: the forward, the unembedding, the cache that each layer needs.
Deliberately does not know: engines, training, files, what a parameter is for, or how attention
stores its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend
from flaxen.kernels.log_softmax import log_softmax
from flaxen.models.cache import CacheSpec
from flaxen.sharding.placement import Placement

if TYPE_CHECKING:  # the families stand above: they make configurations of models
    from flaxen.families.rules import Rules

Params = Any  # a pytree of arrays: nested dicts, and a tuple with one dict a layer
Cache = tuple[Any, ...]  # one entry a layer; its contents belong to the `attend` that made it

# The checkpoint_name (jax.ad_checkpoint) of each layer's input, so that training can keep it and
# compute the rest of the layer again.
LAYER_INPUT = "layer_input"


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """How one layer's attention computes. Hashable: it selects compiled code."""

    window: int | None = None  # tokens that a token sees, itself included; None sees all
    scale: float | None = None  # multiplies the scores q . k; None is head_dim ** -0.5
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap)
    chunk: int | None = None  # a token sees those of its own chunk of so many positions
    value_dim: int | None = None  # where v is None: values are so many first numbers of the keys
    # False: a token also sees those after it, and the window reaches to both sides, itself not
    # counted. Only for whole prompts, without a cache.
    causal: bool = True


# An op of `flaxen.recurrences`: takes its inputs, the states, the batch and `backend`; returns its
# output and the new states.
Recurrence = Callable[..., tuple[jax.Array, Any]]


@runtime_checkable
class Attend(Protocol):
    """Attention, in which tokens see each other; with `recur`, nothing else lets them. Also a
    pytree, so that it can be an argument of a jit.

    Args:
      spec: the layer's attention.
      q: [..., N, H] queries, rotated.
      k: [..., K, H] keys of the same tokens, rotated.
      v: [..., K, V] values; None if they are the first `spec.value_dim` numbers of the keys.
      cache: the layer's entry of the cache; None without a cache.
      sinks: [N] for each query head a score that takes part in the softmax without a value, or
          None.

    Returns:
      The attention output, [..., N, V] in q's dtype, and the layer's new cache entry.
    """

    def __call__(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        cache: Any,
        sinks: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]: ...

    def recur(
        self, op: Recurrence, inputs: tuple[Any, ...], place: int, cache: Any
    ) -> tuple[jax.Array, Any]:
        """Goes through each sequence token by token, with a state that the sequence keeps.

        Args:
          op: an op of `flaxen.recurrences`.
          inputs: its arguments before the states.
          place: which of the layer's states it is, in the order of its cache spec.
          cache: the layer's entry of the cache; None without a cache.

        Returns:
          The op's output, and the layer's new cache entry.
        """
        ...


class InputEmbeds(NamedTuple):
    """Embeddings that take the place of the tokens' own, at some positions."""

    values: jax.Array  # [..., D]
    is_given: jax.Array  # [...] bool; elsewhere the token's own embedding is used


@dataclass(frozen=True, kw_only=True)
class LayerForward:
    """A forward in parts, so that layers can be on different devices: `models/pipeline.py`."""

    # Backend, parameters, tokens, positions, embeddings or None -> the first layer's input
    # [..., D], and what all layers share: a tree of arrays [..., x].
    first_on: Callable[..., tuple[jax.Array, Any]]
    # Backend, the layer's number and parameters, its input, what all share, attend, cache entry ->
    # its output, and the new entry.
    layer_on: Callable[..., tuple[jax.Array, Any]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder as pure functions over an explicit tree of parameters, made for a backend.

    The three fields that are functions take the backend first; the methods with these names pass
    the model's own.
    """

    forward_on: Callable[
        [Backend, Params, jax.Array, jax.Array, Attend, Cache], tuple[jax.Array, Cache]
    ]
    unembed_on: Callable[[Backend, Params, jax.Array], jax.Array]
    param_specs: Any  # the pytree of ParamSpec that `params` must match
    cache_specs: tuple[CacheSpec, ...]  # one for each layer
    vocab_size: int
    max_position: int  # tokens
    # Whether params["layers"] has one dict for each layer with the decoder's names, which adapters
    # and files use. False for the tree of a definition, whose names have no meaning.
    has_layers: bool = False
    # The trained collection, if `params` is a dict of collections as in Flax; None trains
    # everything.
    trained: str | None = None
    # The names of its matrices in files, by the family's rules, for adapters; None: transformers'
    # usual names (weights/adapters/modules.py).
    module_rules: Rules | None = None
    sizes: Callable[[int | None], Mapping[str, int]] = lambda layer: {}  # DecoderConfig.sizes
    in_layers: LayerForward | None = None  # None: the forward is in one piece
    # The pipeline stages. With more than one, `params["layers"]` has the layers of one stage, and
    # each of its arrays has a leading axis over the stages.
    num_stages: int = 1
    unstaged: Model | None = None  # the model of one tree a layer that has these stages
    train_forward_on: (  # None: training uses forward
        Callable[
            [Backend, Params, jax.Array, jax.Array, Attend, jax.Array],
            tuple[jax.Array, dict[str, Any]],
        ]
        | None
    ) = None
    embed_dim: int | None = None  # D of the embeddings that forward_embeds_on takes
    # This is forward_on with embeddings as a last argument; None: the model takes only tokens.
    forward_embeds_on: (
        Callable[
            [Backend, Params, jax.Array, jax.Array, Attend, Cache, InputEmbeds],
            tuple[jax.Array, Cache],
        ]
        | None
    ) = None
    # The final norm alone, with which unembed begins; None: it can't be had apart from that.
    final_norm_on: Callable[[Backend, Params, jax.Array], jax.Array] | None = None
    # Given a number of tokens above max_position, the model with the same parameters for sequences
    # of that length, whose results are others; None: there is none.
    for_context_on: Callable[[int], Model] | None = None
    # Whether it predicts next tokens. False: an encoder, or a decoder with a classification head.
    generates: bool = True
    # Whether its tokens see those after them: a prompt must be whole in one step, and no layer
    # keeps anything of past tokens.
    is_encoder: bool = False
    # Whether the hidden states of padding are zeros, which the C++ kernels do not multiply. A bias
    # makes them something else.
    pads_with_zeros: bool = True
    # The classification head: from a pooled vector [D] to the logits of the labels [L], float32.
    head_on: Callable[[Backend, Params, jax.Array], jax.Array] | None = None
    # The experts of each layer that has some; () for a model without any.
    num_experts: tuple[int, ...] = ()
    # This is forward_on, and also returns the routing of each of these layers; None: it can't.
    routed_forward_on: Callable[..., tuple[jax.Array, Cache, tuple[Any, ...]]] | None = None
    # What its ops run on; this also determines the form of its parameters, pages and steps.
    backend: Backend = Backend.REFERENCE
    # The mesh that its parameters, pages and attention are laid over; None is one device. The
    # forward does not see it.
    placement: Placement | None = None

    def on(self, backend: Backend, placement: Placement | None = None) -> Model:
        """The same model for a backend, and for a mesh or one device."""
        return replace(self, backend=backend, placement=placement)

    def for_context(self, length: int | None) -> Model:
        """The model for sequences of up to `length` tokens: itself, unless they need another rope.

        Args:
          length: tokens; None is max_position.
        """
        if length is None or length <= self.max_position or self.for_context_on is None:
            return self
        return self.for_context_on(length).on(self.backend, self.placement)

    def forward(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        attend: Attend,
        cache: Cache,
    ) -> tuple[jax.Array, Cache]:
        """Computes hidden states from tokens.

        Args:
          params: a tree like `param_specs`.
          tokens: int32 [...]; -1 is padding.
          positions: int32 [...]: each token's position in its sequence.
          attend: attention, from `models.attention_impls`.
          cache: one entry for each layer, defined by `attend`; donated, unless called inside
              another jit.

        Returns:
          Hidden states [..., D], and the new cache.
        """
        return self.forward_on(self.backend, params, tokens, positions, attend, cache)

    def forward_embeds(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        attend: Attend,
        cache: Cache,
        embeds: InputEmbeds,
    ) -> tuple[jax.Array, Cache]:
        """`forward`, with embeddings in place of some tokens' own."""
        assert self.forward_embeds_on is not None, "the model takes nothing but tokens"
        return self.forward_embeds_on(
            self.backend, params, tokens, positions, attend, cache, embeds
        )

    def routed_forward(
        self, params: Params, tokens: jax.Array, positions: jax.Array, attend: Attend, cache: Cache
    ) -> tuple[jax.Array, Cache, tuple[Any, ...]]:
        """`forward`, with the routing of each layer that has experts: its logits, float32 [..., E],
        and the experts of each token, int32 [..., k].
        """
        assert self.routed_forward_on is not None, "the model has no layers with experts"
        return self.routed_forward_on(self.backend, params, tokens, positions, attend, cache)

    def final_norm(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., D] after the final norm: what pooled vectors are made of."""
        assert self.final_norm_on is not None, "the model's final norm is a part of unembed"
        return self.final_norm_on(self.backend, params, hidden)

    def head(self, params: Params, pooled: jax.Array) -> jax.Array:
        """The logits [L] of the labels for a prompt's pooled vector [D], in float32."""
        assert self.head_on is not None, "the model has no classification head"
        return self.head_on(self.backend, params, pooled)

    def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Computes float32 logits [..., V] from hidden states [..., D], with the final norm."""
        return self.unembed_on(self.backend, params, hidden)

    def train_forward(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        attend: Attend,
        key: jax.Array,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """`forward` in training, if that differs (`train_forward_on` is not None).

        Args:
          params: as in `forward`.
          tokens: as in `forward`.
          positions: as in `forward`.
          attend: as in `forward`.
          key: PRNG key of dropout.

        Returns:
          Hidden states [..., D], and the new value of each collection that changed.
        """
        assert self.train_forward_on is not None, "the model trains by forward"
        return self.train_forward_on(self.backend, params, tokens, positions, attend, key)


def logprobs(logits: Float[Array, "*B V"], backend: Backend) -> Float[Array, "*B V"]:
    """Log-probabilities of float32 logits [..., V], for training, evaluation and serving alike.

    Args:
      logits: [..., V].
      backend: the model's.
    """
    return log_softmax(logits.astype(jnp.float32), backend=backend)
