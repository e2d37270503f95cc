"""Writes a model's configuration as GGUF metadata: the inverse of `model.py`, which reads it.

What is written is read again at once, so that no file is made that means another model.
Deliberately does not know tokenizers, nor how files are written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flaxen.models.config import DecoderConfig, RopeConfig
from flaxen.models.families import Family, find_family, hf_fields
from flaxen.models.rope import rope_frequencies
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import in_memory
from flaxen.weights.gguf.model import FIELDS, ROPE_FACTORS, architecture, config_fields
from flaxen.weights.gguf.reader import GgufFile

_LOG = logging.getLogger(__name__)


def extra_tensors(config: DecoderConfig) -> list[StoredTensor]:
    """The tensors that stand for parts of the configuration: Llama 3's divisors of frequencies."""
    if config.rope.kind != "llama3":
        return []
    plain, _ = rope_frequencies(RopeConfig(theta=config.rope.theta), config.head_dim)
    scaled, _ = rope_frequencies(config.rope, config.head_dim)
    return [in_memory(ROPE_FACTORS, (plain / scaled).astype(np.float32))]


def model_metadata(
    family: Family, config: DecoderConfig, tensors: Sequence[StoredTensor]
) -> dict[str, Any]:
    """The keys of an architecture, with general.architecture.

    Args:
      family: the model's family.
      config: its configuration.
      tensors: those of the file, whose names say which biases and tables there are.

    Raises:
      ValueError: GGUF or llama.cpp can't express the model; the message says what.
    """
    extra = [name for name in config.biases if name not in family.gguf_biases]
    if extra:
        raise ValueError(
            f"the model has biases on {', '.join(extra)}, which llama.cpp does not read for "
            f"{family.gguf_architecture}: export it as a directory of safetensors"
        )
    _warn(family, config)
    fields = hf_fields(family, config)
    own = {key: fields[field] for key, field in FIELDS.items() if fields.get(field) is not None}
    own |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
    own |= _rope_keys(config.rope)
    metadata = {
        "general.architecture": family.gguf_architecture,
        **{f"{family.gguf_architecture}.{key}": value for key, value in own.items()},
    }
    _check(config, GgufFile(metadata=metadata, tensors={each.name: each for each in tensors}))
    return metadata


def _warn(family: Family, config: DecoderConfig) -> None:
    """Says what flaxen reads from the file and llama.cpp leaves out."""
    window = next((each for each in config.windows if each is not None), None)
    if window is not None:
        _LOG.warning(
            "llama.cpp reads no sliding window for %s: its answers are others after %d tokens",
            family.gguf_architecture, window,
        )  # fmt: skip
    rope, usual = config.rope, RopeConfig()
    if rope.kind == "yarn" and (rope.beta_fast, rope.beta_slow) != (
        usual.beta_fast, usual.beta_slow
    ):  # fmt: skip
        _LOG.warning(
            "llama.cpp reads no beta_fast and beta_slow of YaRN for %s, and takes %g and %g: its "
            "answers are others",
            family.gguf_architecture, usual.beta_fast, usual.beta_slow,
        )  # fmt: skip


def _rope_keys(rope: RopeConfig) -> dict[str, Any]:
    if rope.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_max_position,
            "rope.scaling.yarn_beta_fast": rope.beta_fast,
            "rope.scaling.yarn_beta_slow": rope.beta_slow,
        }
    return {}


def _check(config: DecoderConfig, file: GgufFile) -> None:
    """Reads the configuration back from the file."""
    try:
        again = find_family(architecture(file)).config_from_hf(config_fields(file))
    except ValueError as error:
        raise ValueError(f"the model does not fit into a GGUF file: {error}") from None
    given, found = _in_float32(config), _in_float32(again)
    differing = [name for name, value in vars(given).items() if vars(found)[name] != value]
    if differing:
        raise ValueError(
            f"the model does not fit into a GGUF file, which can't say its {', '.join(differing)}: "
            "export it as a directory of safetensors"
        )


def _in_float32(config: DecoderConfig) -> DecoderConfig:
    """The configuration with each number rounded as GGUF stores it."""
    rope: dict[str, Any] = {
        name: float(np.float32(value)) if isinstance(value, float) else value
        for name, value in vars(config.rope).items()
    }
    norm_eps = float(np.float32(config.norm_eps))
    return replace(config, norm_eps=norm_eps, rope=replace(config.rope, **rope))
