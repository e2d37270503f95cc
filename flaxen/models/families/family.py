"""What a model family is: a reader of its configuration and the names of its tensors.

Deliberately does not know any family, nor how files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flaxen.models.config import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family is config values plus a name map; the decoder itself is the same for all."""

    # From the fields of a Hugging Face config.json. Raises ValueError that names the field.
    config_from_hf: Callable[[Mapping[str, Any]], DecoderConfig]
    # Our parameter -> Hugging Face's tensor, with {} for the number of the layer.
    tensor_names: Mapping[str, str]
    # The family's GGUF files hold each head's query and key rows in the order of interleaved rope.
    gguf_interleaved_qk: bool = False
