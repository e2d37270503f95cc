"""One row of the table of families: a tiny model of transformers' own class.

Deliberately does not know torch, nor what is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

NUM_TOKENS = 40

# Sizes that divide each other as little as possible: several query heads for each kv head, and no
# multiple of 16 where a kernel has tiles of it.
SIZES: Mapping[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A model of one family with awkward settings. The first row of a family describes it."""

    name: str  # family_variant
    family: str  # as people call it
    model: str  # transformers' class
    features: str  # what it has beside, or in place of, Llama's features
    fields: Mapping[str, Any] = field(default_factory=dict)  # of its config, instead of SIZES
    without: tuple[str, ...] = ()  # the names of SIZES that its config does not have
    lora: Literal["yes", "no"] = "yes"  # whether adapters of PEFT are read and written
    # What to change so that a GGUF file of llama.cpp can say it; None: no GGUF file can.
    gguf: Mapping[str, Any] | None = None
    quantized: Literal["yes", "no"] = "yes"
    seed: int = 0

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of its config."""
        shared = {name: value for name, value in SIZES.items() if name not in self.without}
        return {**shared, **self.fields}

    def as_gguf(self) -> Row:
        """The row that a GGUF file can say."""
        assert self.gguf is not None
        if not self.gguf:
            return self  # its checkpoint is made once for all tests
        return replace(self, name=f"{self.name}_gguf", fields={**self.fields, **self.gguf})
