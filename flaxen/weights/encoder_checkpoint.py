"""An encoder in a Hugging Face directory, with the interface of `weights.checkpoint.Checkpoint`.

Deliberately does not know engines, or where models come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp

from flaxen.families.encoder_family import EncoderFamily
from flaxen.families.encoders import ENCODERS
from flaxen.hub.weight_files import read_json
from flaxen.models.encoder import encoder
from flaxen.models.model import Model, Params
from flaxen.protocol import PoolingInfo
from flaxen.tensors.tensor import StoredTensor
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.checkpoint import model_name, stored_dtype
from flaxen.weights.form import Form, LoadsParams, num_bytes
from flaxen.weights.huggingface.architecture import architecture
from flaxen.weights.huggingface.pooling import read_classification, read_embedding
from flaxen.weights.params import load_params
from flaxen.weights.safetensors import ALL_DTYPES, read_tensors
from flaxen.weights.sources import Sources, find_sources

# Old files also hold the numbers of the positions, which nothing needs.
_DTYPES = {name: ALL_DTYPES[name] for name in ("F32", "F16", "BF16", "I64")}
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True, kw_only=True)
class EncoderCheckpoint(LoadsParams):
    """An encoder in files: its model, how it pools, and functions that load what it needs."""

    name: str
    family: EncoderFamily
    model: Model
    pooling: PoolingInfo
    dtype: jnp.dtype  # the dtype of the weights in the files
    sources: Sources
    # Raises ValueError if the tokenizer's files are missing, damaged or not supported.
    make_tokenizer: Callable[[], Tokenizer]

    @property
    def num_file_bytes(self) -> int:
        """The bytes of the weights in the files."""
        return sum(tensor.num_bytes for tensor in self.sources.tensors.values())

    def num_param_bytes(self, form: Form) -> int:
        """The bytes that the parameters will take in memory."""
        return num_bytes(self.model.param_specs, self.sources.params, form)

    def params_in(self, form: Form, on_progress: Callable[[int, int], None] | None) -> Params:
        """See LoadsParams.load_params."""
        return load_params(
            self.model.param_specs,
            self.sources.params,
            form,
            round_to=None,
            on_progress=on_progress,
        )


def is_encoder(directory: Path) -> bool:
    """Whether a directory's config.json names an encoder."""
    file = directory / "config.json"
    return file.is_file() and architecture(read_json(file)) in ENCODERS


def open_encoder(directory: Path) -> EncoderCheckpoint:
    """Opens an encoder's directory, and checks all that can be checked without its weights.

    Raises:
      ValueError: the model is damaged, incomplete or not supported; the message names the file, and
          the tensor or field.
    """
    fields = read_json(directory / "config.json")
    name = architecture(fields)
    family = ENCODERS[name]
    try:
        config = family.read_config(fields, name)
        model = encoder(config)
        if config.head is None:
            pooling = read_embedding(directory, fields, "mean")
        else:
            pooling = read_classification(fields, config.head.num_labels, "cls")
        tensors = _own_names(read_tensors(directory, _DTYPES), family.prefix)
        sources = find_sources(
            model.param_specs,
            family.hf_rules,
            tensors,
            lambda layer: {},  # the rules name no sizes
            # Tensors that a parameter needs are never asked for.
            ignored=lambda tensor: tensor.startswith(family.ignored),
        )
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from None
    if config.num_token_types > 1:
        pooling = replace(pooling, token_type_stride=config.vocab_size)
    return EncoderCheckpoint(
        name=model_name(directory),
        family=family,
        model=model,
        pooling=pooling,
        dtype=stored_dtype(sources),
        sources=sources,
        make_tokenizer=lambda: Tokenizer.from_directory(directory),
    )


def _own_names(tensors: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The tensors by the names that the rules have: without the prefix that a head's class adds,
    and with today's names of a norm's parameters.
    """
    found = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(prefix)
        for old, new in _OLD_NAMES.items():
            own = own.replace(old, new) if own.endswith(old) else own
        found[own] = tensor
    return found
