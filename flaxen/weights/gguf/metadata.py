"""Writes a model's configuration as GGUF metadata: the inverse of `model.py`, which reads it.

What is written is read again at once, so that no file is made that means another model.
Deliberately does not know tokenizers, nor how files are written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxen.families import Family, find_gguf_family, hf, hf_fields
from flaxen.families.differences import differences, with_floats
from flaxen.families.hf_layers import layer_ropes
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.rope import rope_frequencies
from flaxen.models.rope_config import RopeConfig
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import in_memory
from flaxen.weights.gguf.model import FIELDS, ROPE_FACTORS, architecture, config_fields
from flaxen.weights.gguf.reader import GgufFile

_LOG = logging.getLogger(__name__)


def extra_tensors(config: DecoderConfig) -> list[StoredTensor]:
    """The tensors that stand for parts of the configuration: Llama 3's divisors of frequencies."""
    mixer = hf.first(config, Attention)
    if mixer.rope is None or mixer.rope.kind != "llama3":
        return []
    plain, _ = rope_frequencies(RopeConfig(theta=mixer.rope.theta), mixer.head_dim)
    scaled, _ = rope_frequencies(mixer.rope, mixer.head_dim)
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
    mixer = hf.first(config, Attention)
    biases = (*mixer.biases, *hf.first(config, DenseMlp).biases)
    extra = [name for name in biases if name not in family.gguf_biases]
    if extra:
        raise ValueError(
            f"the model has biases on {', '.join(extra)}, which llama.cpp does not read for "
            f"{family.gguf_architecture}: export it as a directory of safetensors"
        )
    _warn(family, config)
    fields = hf_fields(family, config)
    names = {**FIELDS, **family.gguf_fields}
    own = {key: fields[field] for key, field in names.items() if fields.get(field) is not None}
    own |= {"attention.value_length": mixer.head_dim}
    rope = _main_rope(config)
    if rope is not None:
        own |= {"rope.dimension_count": rope.num_rotated(mixer.head_dim), **_rope_keys(rope)}
    if family.has_gguf_pattern:
        slides = [each is not None for each in hf.windows(config)]
        own |= {"attention.sliding_window_pattern": slides} if any(slides) else {}
    metadata = {
        "general.architecture": family.gguf_architecture,
        **{f"{family.gguf_architecture}.{key}": value for key, value in own.items()},
    }
    _check(config, GgufFile(metadata=metadata, tensors={each.name: each for each in tensors}))
    return metadata


def _main_rope(config: DecoderConfig) -> RopeConfig | None:
    """The rope of the layers that see all, or of those that slide if only they have one."""
    pairs = zip(hf.windows(config), layer_ropes(config), strict=True)
    found = {window is not None: rope for window, rope in pairs if rope is not None}
    return found.get(False, found.get(True))


def _warn(family: Family, config: DecoderConfig) -> None:
    """Says what flaxen reads from the file and llama.cpp leaves out."""
    window = next((each for each in hf.windows(config) if each is not None), None)
    if window is not None:
        _LOG.warning(
            "llama.cpp reads no sliding window for %s: its answers are others after %d tokens",
            family.gguf_architecture, window,
        )  # fmt: skip
    rope, usual = hf.first(config, Attention).rope, RopeConfig()
    if rope is not None and rope.kind == "yarn" and (rope.beta_fast, rope.beta_slow) != (
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
        family = find_gguf_family(architecture(file))
        again = family.config_from_hf(config_fields(file, family))
    except ValueError as error:
        raise ValueError(f"the model does not fit into a GGUF file: {error}") from None
    given, found = (with_floats(each, _in_float32) for each in (config, again))
    if differing := differences(given, found):
        raise ValueError(
            f"the model does not fit into a GGUF file, which can't say its {', '.join(differing)}: "
            "export it as a directory of safetensors"
        )


def _in_float32(value: float) -> float:
    """A number as GGUF stores it."""
    return float(np.float32(value))
