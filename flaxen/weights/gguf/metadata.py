"""Writes a model's configuration as GGUF metadata: the inverse of `model.py`, which reads it.

What is written is read again at once, so that no file is made that means another model.
Deliberately does not know tokenizers, nor how files are written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxen.families import Family, hf, hf_fields
from flaxen.families.differences import differences, with_floats
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.rope import rope_frequencies
from flaxen.models.rope_config import RopeConfig
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import in_memory
from flaxen.weights.gguf.model import FIELDS, ROPE_FACTORS, config_fields, family_of
from flaxen.weights.gguf.reader import GgufFile

_LOG = logging.getLogger(__name__)
_BIASES = ("bq", "bk", "bv", "bo", "b_gate", "b_up", "b_down")  # of which `gguf_biases` tells


def extra_tensors(config: DecoderConfig) -> list[StoredTensor]:
    """The tensors that stand for parts of the configuration: Llama 3's divisors of frequencies."""
    rope, head_dim = _main_rope(config)
    if rope is None or rope.kind != "llama3":
        return []
    plain, _ = rope_frequencies(RopeConfig(theta=rope.theta), head_dim)
    scaled, _ = rope_frequencies(rope, head_dim)
    return [in_memory(ROPE_FACTORS, (plain / scaled).astype(np.float32))]


def check_params(family: Family, config: DecoderConfig) -> None:
    """Refuses parameters for which llama.cpp has no tensors.

    Raises:
      ValueError: the model has such; the message names them.
    """
    known = {param for rule in family.gguf_rules for param in rule.params} - set(_BIASES)
    known |= {"b" + weight[1:] for weight in family.gguf_biases}
    names = dict.fromkeys(each for layer in config.layers for each in layer.param_specs(1))
    extra = [name for name in names if name not in known]
    if not config.tied_embeddings and not family.gguf_unembeds:
        raise ValueError(
            f"the model has an unembedding of its own, and llama.cpp takes the embedding for "
            f"{family.gguf_architecture}: export it as a directory of safetensors"
        )
    if extra:
        of_weights = ", ".join("w" + name[1:] for name in extra)
        what = f"biases on {of_weights}" if set(extra) <= set(_BIASES) else ", ".join(extra)
        raise ValueError(
            f"the model has {what}, which llama.cpp does not read for "
            f"{family.gguf_architecture}: export it as a directory of safetensors"
        )


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
    check_params(family, config)
    _warn(family, config)
    fields = hf_fields(family, config)
    names = {**FIELDS, **family.gguf_fields}
    own = {key: fields[field] for key, field in names.items() if fields.get(field) is not None}
    mixers = [layer.mixer for layer in config.layers if isinstance(layer.mixer, Attention)]
    if mixers:
        own |= {"attention.value_length": mixers[0].head_dim}
    rope, head_dim = _main_rope(config)
    if rope is not None:
        own |= {"rope.dimension_count": rope.num_rotated(head_dim), **_rope_keys(rope)}
    if family.has_gguf_pattern:
        slides = [each is not None for each in hf.windows(config)]
        own |= {"attention.sliding_window_pattern": slides} if any(slides) else {}
    own |= family.gguf_keys(fields)
    metadata = {
        "general.architecture": family.gguf_architecture,
        **{f"{family.gguf_architecture}.{k}": each for k, each in own.items() if each is not None},
    }
    _check(config, GgufFile(metadata=metadata, tensors={each.name: each for each in tensors}))
    return metadata


def _main_rope(config: DecoderConfig) -> tuple[RopeConfig | None, int]:
    """The rope of the layers that see all, or of those that slide if only they have one; and the
    numbers of a head that may be rotated.
    """
    pairs = zip(hf.windows(config), config.layers, strict=True)
    rotations = [(window is not None, layer.mixer.rotation) for window, layer in pairs]
    found = {slides: each for slides, each in rotations if each is not None}
    return found.get(False) or found.get(True) or (None, 0)


def _warn(family: Family, config: DecoderConfig) -> None:
    """Says what flaxen reads from the file and llama.cpp leaves out."""
    window = next((each for each in hf.windows(config) if each is not None), None)
    if window is not None and "attention.sliding_window" not in family.gguf_fields:
        _LOG.warning(
            "llama.cpp reads no sliding window for %s: its answers are others after %d tokens",
            family.gguf_architecture, window,
        )  # fmt: skip
    (rope, _), usual = _main_rope(config), RopeConfig()
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
        family = family_of(file)
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
