"""The configuration of a decoder, as data. Deliberately does not know any model's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.norm import Norm
from flaxen.models.param_spec import check_sizes
from flaxen.models.rope_config import RopeConfig


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder: an embedding, layers, a final norm, and an unembedding.

    Raises:
      ValueError: a size is not above 0, or there are no layers.
    """

    vocab_size: int
    model_dim: int  # D
    layers: tuple[LayerConfig, ...]
    final_norm: Norm
    tied_embeddings: bool = False
    max_position: int = 2048  # tokens
    learned_positions: bool = False  # a table of positions is added to the embedding
    unembed_bias: bool = False
    embed_scale: float = 1.0  # multiplies the embedding, rounded to its dtype first
    logit_scale: float = 1.0  # multiplies the logits
    logit_softcap: float | None = None  # logits become softcap * tanh(logits / softcap)

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "model_dim", "max_position")
        if not self.layers:
            raise ValueError("a decoder needs at least one layer, got none")

    def with_layers(self, change: Callable[[int, LayerConfig], LayerConfig]) -> DecoderConfig:
        """The same with each layer changed, given its number and the layer."""
        return replace(self, layers=tuple(change(*each) for each in enumerate(self.layers)))

    @property
    def default_context(self) -> int:
        """The longest sequence, in tokens, without `for_context`: the shortest of its ropes'."""
        limits = [each.longest for each in self._ropes() if each.longest is not None]
        return min(limits, default=self.max_position)

    @property
    def longest_context(self) -> int:
        """The longest sequence, in tokens, that `for_context` takes."""
        grown = [
            int(each.original_max_position * each.factor)
            for each in self._ropes()
            if each.kind == "dynamic"
        ]
        return max([self.max_position, *grown])

    def for_context(self, length: int) -> DecoderConfig:
        """The same with ropes that are right for sequences of `length` tokens."""

        def longer(number: int, layer: LayerConfig) -> LayerConfig:
            rotation = layer.mixer.rotation
            if rotation is None or rotation[0].longest is None:
                return layer
            rope = replace(rotation[0], context=min(length, self.longest_context))
            mixer: Any = layer.mixer  # a mixer with a rotation has a field `rope`
            return replace(layer, mixer=replace(mixer, rope=rope))

        return self.with_layers(longer)

    def _ropes(self) -> list[RopeConfig]:
        rotations = [layer.mixer.rotation for layer in self.layers]
        return [each[0] for each in rotations if each is not None]

    def sizes(self, layer: int | None) -> Mapping[str, int]:
        """The sizes that tensor rules know by name: those of a layer, or those outside of layers.

        Args:
          layer: its number; None for the parameters outside of layers.
        """
        found = {"vocab_size": self.vocab_size, "model_dim": self.model_dim}
        if layer is None:
            return found
        own = self.layers[layer]
        return found | _whole_numbers(own.mixer) | _whole_numbers(own.mlp)


def _whole_numbers(part: Any) -> dict[str, int]:
    """The fields of a layer's part that are whole numbers."""
    if part is None:
        return {}
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    return {name: value for name, value in values.items() if type(value) is int}
