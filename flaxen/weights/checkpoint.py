"""A model in files, with one interface for all formats.

Opening checks everything that can be checked without reading the weights, so that errors come
before anything is compiled. Deliberately does not know engines, or where models come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxen.families import Family
from flaxen.families.rules import Rules, tensor_of
from flaxen.hub.weight_files import check_is_model, read_json
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.head import HeadConfig, with_head
from flaxen.models.model import Model, Params
from flaxen.protocol import PoolingInfo
from flaxen.tensors.packing.pack import Quantization
from flaxen.tensors.quantized import methods
from flaxen.tensors.quantized.floats import DTYPES as QUANTIZED_DTYPES
from flaxen.tensors.tensor import StoredTensor
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.form import Form, LoadsParams, num_bytes
from flaxen.weights.gguf import model as gguf_model
from flaxen.weights.gguf.reader import read_gguf
from flaxen.weights.huggingface.classifier import SCORE, decoder_head
from flaxen.weights.huggingface.config import read_quantized_config
from flaxen.weights.huggingface.pooling import (
    is_sentence_transformer,
    read_classification,
    read_embedding,
)
from flaxen.weights.huggingface.tables import fit_names, fit_tables
from flaxen.weights.params import load_params
from flaxen.weights.safetensors import read_tensors
from flaxen.weights.sources import Sources, find_sources


@dataclass(frozen=True, kw_only=True)
class Checkpoint(LoadsParams):
    """A model in files: its configuration, and functions that load its parameters and tokenizer."""

    name: str
    family: Family
    config: DecoderConfig
    model: Model
    dtype: jnp.dtype  # the dtype of the weights in the files; bfloat16 for quantized ones
    sources: Sources
    round_to: jnp.dtype | None  # see docs/decisions/0020-quantized-weights-round-to-bf16.md
    quantized_by: str | None  # the method of quantization_config; None for plain weights and GGUF
    # Raises ValueError if the tokenizer's files are missing, damaged or not supported.
    make_tokenizer: Callable[[], Tokenizer]
    pooling: PoolingInfo | None = None  # how its files say that it pools; None: it generates

    @property
    def num_file_bytes(self) -> int:
        """The bytes of the weights in the files."""
        return sum(tensor.num_bytes for tensor in self.sources.tensors.values())

    def num_param_bytes(self, form: Form) -> int:
        """The bytes that the parameters will take in memory.

        Raises:
          ValueError: they are to be quantized, and are already.
        """
        self._check_quantization(form.quantization)
        return num_bytes(self.model.param_specs, self.sources.params, form)

    def params_in(self, form: Form, on_progress: Callable[[int, int], None] | None) -> Params:
        """See LoadsParams.load_params."""
        self._check_quantization(form.quantization)
        return load_params(
            self.model.param_specs,
            self.sources.params,
            form,
            round_to=self.round_to,
            on_progress=on_progress,
        )

    def _check_quantization(self, quantization: Quantization) -> None:
        if self.quantized_by is not None and quantization not in ("auto", "none"):
            raise ValueError(
                f"{self.name} is quantized already, by {self.quantized_by}: quantization "
                f"{quantization} would round its weights a second time. Leave --quantization out "
                "to keep them as they are, use none for plain weights, or give the checkpoint "
                "before quantization"
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a GGUF file, or a directory with config.json and safetensors.

    Raises:
      ValueError: the path is neither, or the model is damaged, incomplete or not supported; the
          message names the file, and the tensor or field.
    """
    if path.is_dir():
        return _open_huggingface(path)
    if path.is_file():
        return _open_gguf(path)
    raise ValueError(f"{path} does not exist: give a .gguf file or a directory with config.json")


def _open_huggingface(path: Path) -> Checkpoint:
    check_is_model(path)
    family, config, quantization = read_quantized_config(path / "config.json")
    # Masks and frequencies are computed from the configuration; some are booleans.
    computed = ("rotary_emb.inv_freq", *family.hf_ignored)
    tensors = _tensors(path, quantization, computed)
    fields = read_json(path / "config.json")
    head = decoder_head(fields)
    pooling: PoolingInfo | None = None
    if head is not None:
        pooling = read_classification(fields, head.num_labels, "last")
    elif is_sentence_transformer(path):
        pooling = read_embedding(path, fields, "last")
    rules = family.hf_rules
    if quantization is not None:
        rules = family.quantized_rules.get(quantization["quant_method"], rules)
    rules = fit_names(rules, family.hf_prefix, tensors)
    if head is None:
        config, rules = fit_tables(config, rules, tensors)
    else:  # the head takes the place of the unembedding
        config, rules = replace(config, tied_embeddings=True), (*rules, SCORE)

    def ignored(name: str) -> bool:
        if quantization is not None and name.endswith(".bias") and _is_zero(tensors[name]):
            return True  # GPTQ's writers add one to every layer, whether the model has it or not
        if family.has_extra_layers and (
            name.startswith("mtp.") or _layer_number(rules, name) >= len(config.layers)
        ):
            return True
        return config.tied_embeddings and name == tensor_of(rules, "unembed")

    return _checkpoint(
        path,
        family,
        config,
        rules,
        tensors=tensors,
        ignored=ignored,
        rounds=False,
        quantized_by=None if quantization is None else quantization["quant_method"],
        make_tokenizer=lambda: Tokenizer.from_directory(path),
        head=head,
        pooling=pooling,
    )


def _layer_number(rules: Rules, name: str) -> int:
    """The number of a tensor's layer; -1 if it is of none."""
    prefix = tensor_of(rules, "wo").partition("{layer}")[0]
    number = name.removeprefix(prefix).partition(".")[0]
    return int(number) if name.startswith(prefix) and number.isdecimal() else -1


def _tensors(
    path: Path, quantization: Mapping[str, Any] | None, left_out: tuple[str, ...]
) -> dict[str, StoredTensor]:
    if quantization is None:
        return read_tensors(path, left_out=left_out)
    try:
        found = read_tensors(path, QUANTIZED_DTYPES, left_out=left_out)
        return methods.combine(quantization, found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_zero(tensor: StoredTensor) -> bool:
    return not tensor.read(0, tensor.shape[0]).any()


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    try:
        family = gguf_model.family_of(file)
        config = family.config_from_hf(gguf_model.config_fields(file, family))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    rules = gguf_model.rules_of(file, family)

    def ignored(name: str) -> bool:
        is_extra = family.has_extra_layers and _layer_number(rules, name) >= len(config.layers)
        return is_extra or name == gguf_model.ROPE_FACTORS

    return _checkpoint(
        path,
        family,
        config,
        rules,
        tensors=file.tensors,
        ignored=ignored,
        rounds=True,
        quantized_by=None,
        make_tokenizer=lambda: Tokenizer.from_gguf(file.metadata),
    )


def _checkpoint(
    path: Path,
    family: Family,
    config: DecoderConfig,
    rules: Rules,
    *,
    tensors: Mapping[str, StoredTensor],
    ignored: Callable[[str], bool],
    rounds: bool,
    quantized_by: str | None,
    make_tokenizer: Callable[[], Tokenizer],
    head: HeadConfig | None = None,
    pooling: PoolingInfo | None = None,
) -> Checkpoint:
    model = replace(decoder(config), module_rules=family.hf_rules)
    if head is not None:
        model = with_head(model, head, config.model_dim)
    try:
        sources = find_sources(model.param_specs, rules, tensors, config.sizes, ignored=ignored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    dtype = stored_dtype(sources)
    return Checkpoint(
        name=model_name(path),
        family=family,
        config=config,
        model=model,
        dtype=dtype,
        sources=sources,
        round_to=dtype if rounds and dtype == jnp.bfloat16 else None,
        quantized_by=quantized_by,
        make_tokenizer=make_tokenizer,
        pooling=pooling,
    )


def stored_dtype(sources: Sources) -> jnp.dtype:
    """The dtype of the weights in files; bfloat16 for quantized ones."""
    stored = {tensor.dtype for tensor in sources.tensors.values()}
    if stored - {"F32", "F16"}:
        return jnp.dtype("bfloat16")
    return jnp.dtype("float16" if "F16" in stored else "float32")


def model_name(path: Path) -> str:
    """The name of the file or directory; for a snapshot in the Hugging Face cache that of the
    repository.
    """
    path = path.absolute()
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1)
    return path.stem if path.suffix == ".gguf" else path.name
