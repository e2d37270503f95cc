"""A model family: its configuration and its tensors in files, in both directions.

Deliberately does not know any family, nor how files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flaxen.families.differences import differences
from flaxen.families.rules import Rules
from flaxen.models.config import DecoderConfig

GGUF_REQUIRED = (
    "embedding_length", "feed_forward_length", "block_count", "attention.head_count",
    "context_length",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Family:
    """A published architecture, as data; the decoder itself is the same for all."""

    architecture: str  # as in `architectures` of config.json
    model_type: str  # as in config.json
    # Reads the fields of a Hugging Face config.json. Raises ValueError that names the field.
    config_from_hf: Callable[[Mapping[str, Any]], DecoderConfig]
    # The inverse, without the two names above; `hf_fields` checks the result.
    config_to_hf: Callable[[DecoderConfig], dict[str, Any]]
    hf_rules: Rules  # for Hugging Face's safetensors
    # The prefix of tensors that transformers leaves out where the model under the head was saved.
    hf_prefix: str = "model."
    # The ends of names of tensors that are computed and stored all the same: masks.
    hf_ignored: tuple[str, ...] = ()
    # The rules of checkpoints with some methods of quantization, where they differ.
    quantized_rules: Mapping[str, Rules] = field(default_factory=dict)
    gguf_architecture: str | None = None  # `general.architecture` of GGUF files; None: not read
    gguf_aliases: tuple[str, ...] = ()  # other such names that are read
    # Whether a file with such a name is of this family, given its metadata after the name: for
    # families that share a name.
    is_gguf: Callable[[Mapping[str, Any]], bool] = lambda keys: True
    gguf_rules: Rules = ()
    # Rules of files that have a tensor whose name ends so, in place of the same parameters' above.
    gguf_variants: Mapping[str, Rules] = field(default_factory=dict)
    # The metadata keys of that architecture beside those that all have, or in place of these, after
    # its name, and the fields of config.json that they stand for. A name that is no such field is
    # for `gguf_implied`.
    gguf_fields: Mapping[str, str] = field(default_factory=dict)
    gguf_share: str | None = None  # the field with the rotated share of a head; None: all of it is
    gguf_lists: tuple[str, ...] = ()  # the keys with a value of its own for each layer
    # Fields that say whether layers have a tensor, by the end of its name.
    gguf_flags: Mapping[str, str] = field(default_factory=dict)
    gguf_required: tuple[str, ...] = GGUF_REQUIRED  # the keys that must be numbers above 0
    # Whether the metadata lists the layers that slide.
    has_gguf_pattern: bool = False
    # The fields that llama.cpp's code fixes for the architecture, or that follow from those of the
    # metadata, which it is given. Raises ValueError if they are not supported.
    gguf_implied: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda fields: {}
    # The inverse: keys that follow from the fields of config.json. None leaves a key out.
    gguf_keys: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda fields: {}
    # The layers whose biases llama.cpp reads for that architecture.
    gguf_biases: tuple[str, ...] = ("wq", "wk", "wv")
    # Whether llama.cpp reads an unembedding for that architecture, or only takes the embedding.
    gguf_unembeds: bool = True
    # Whether files may have layers after the model's own, which predict further tokens: they are
    # not read.
    has_extra_layers: bool = False


def hf_fields(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """Writes the fields of config.json, and checks that the family reads the same configuration.

    Raises:
      ValueError: the family can't express the configuration.
    """
    fields = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.config_to_hf(config),
    }
    try:
        again = family.config_from_hf(fields)
    except ValueError as error:
        raise ValueError(f"the model does not fit into {family.architecture}: {error}") from None
    if differing := differences(config, again):
        raise ValueError(
            f"the model does not fit into {family.architecture}, which can't say its "
            f"{', '.join(differing)}: name a family that has these features"
        )
    return fields
