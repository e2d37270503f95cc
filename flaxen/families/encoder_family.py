"""An encoder family: its configuration and the names of its tensors in Hugging Face's files.

Deliberately does not know any family, nor how files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flaxen.families.hf_values import whole
from flaxen.families.rules import Rules
from flaxen.models.encoder_config import Activation, EncoderConfig
from flaxen.models.head import HeadConfig

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Fields that change the result and that the encoder does not support, with their harmless values.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "embedding_size": (None,),
    "sinusoidal_pos_embds": (False, None),
    "chunk_size_feed_forward": (0, None),
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
}


@dataclass(frozen=True, kw_only=True)
class EncoderFamily:
    """A published encoder architecture, as data; the encoder itself is the same for all."""

    name: str  # its classes' names without their ends, as "Bert"
    model_type: str  # as in config.json
    prefix: str  # the prefix of the encoder's tensors under a head
    # Reads the fields of config.json, without the head. Raises ValueError that names the field.
    config_from_hf: Callable[[Mapping[str, Any]], EncoderConfig]
    head: HeadConfig  # that of its class for sequence classification; the labels are config.json's
    hf_rules: Rules  # for tensors without the prefix, but for the head's
    # The beginnings of the names of tensors that nothing here computes with, such as a head for
    # masked tokens.
    ignored: tuple[str, ...] = ()

    @property
    def architectures(self) -> tuple[str, ...]:
        """The names in `architectures` of config.json that this family reads."""
        kinds = ("Model", "ForMaskedLM", "ForSequenceClassification")
        return tuple(f"{self.name}{kind}" for kind in kinds)

    def read_config(self, fields: Mapping[str, Any], architecture: str) -> EncoderConfig:
        """The configuration of a config.json, with the head that the architecture has.

        Raises:
          ValueError: a field is missing or not supported.
        """
        config = self.config_from_hf(fields)
        if not architecture.endswith("ForSequenceClassification"):
            return config
        return replace(config, head=replace(self.head, num_labels=num_labels(fields)))


def num_labels(fields: Mapping[str, Any]) -> int:
    """The number of labels of a classification model, as transformers reads it.

    Raises:
      ValueError: the labels are not an object with a text for each number.
    """
    labels = fields.get("id2label")
    if labels is None:
        return whole(fields, "num_labels", default=2)
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"id2label must name each label by its number, got {labels!r}")
    return len(labels)


def check_encoder(fields: Mapping[str, Any], harmless: Collection[str] = ()) -> None:
    """Refuses fields that change the result and that the encoder does not support.

    Args:
      fields: of config.json.
      harmless: fields that mean nothing in this family.

    Raises:
      ValueError: there is such a field; the message names it.
    """
    for name, allowed in _REFUSED.items():
        if name not in harmless and fields.get(name) not in allowed:
            known = " or ".join(repr(each) for each in allowed if each is not None)
            raise ValueError(
                f"{name} = {fields[name]!r} is not supported, and leaving it out would change the "
                f"result{': only ' + known + ' is' if known else ''}"
            )


def activation(fields: Mapping[str, Any], name: str) -> Activation:
    """Reads the activation of the MLP.

    Raises:
      ValueError: it is not supported.
    """
    value = fields.get(name, "gelu")
    if value not in _ACTIVATIONS:
        raise ValueError(
            f"{name} = {value!r} is not supported: an encoder has {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[value]


def norm_eps(fields: Mapping[str, Any], default: float) -> float:
    """Reads `layer_norm_eps`.

    Raises:
      ValueError: it is not a number above 0.
    """
    value = fields.get("layer_norm_eps", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"layer_norm_eps must be a number above 0, got {value!r}")
    return float(value)
