"""What a model family is: its configuration and its tensors in files, readable in both directions.

Deliberately does not know any family, nor how files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flaxen.models.config import DecoderConfig
from flaxen.models.families.rules import Rules


@dataclass(frozen=True, kw_only=True)
class Family:
    """A published architecture, as data; the decoder itself is the same for all."""

    architecture: str  # as `architectures` of config.json has it
    model_type: str  # as config.json has it
    # From the fields of a Hugging Face config.json. Raises ValueError that names the field.
    config_from_hf: Callable[[Mapping[str, Any]], DecoderConfig]
    # Its inverse, without the two names above; `hf_fields` checks what it writes.
    config_to_hf: Callable[[DecoderConfig], dict[str, Any]]
    hf_rules: Rules  # of Hugging Face's safetensors
    gguf_rules: Rules


def hf_fields(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """The fields of config.json, from which the family reads the same configuration again.

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
    # Some fields are of no account for some kinds of rope, and are not written.
    if replace(again, rope=config.rope) != config or config.rope.kind != again.rope.kind:
        differing = [name for name in vars(config) if vars(config)[name] != vars(again)[name]]
        raise ValueError(
            f"the model does not fit into {family.architecture}, which can't say its "
            f"{', '.join(differing)}: name a family that has these features"
        )
    return fields
