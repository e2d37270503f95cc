"""Tiny encoders of transformers' own classes, with random weights and awkward settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("a", "b", "c", "sky", "sea", "is", "blue", "deep", "red", "not", "and", "the", "fish")
_BERT = {
    "vocab_size": 40,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 72,
    "max_position_embeddings": 70,
}
_DISTIL = {
    "vocab_size": 40,
    "dim": 48,
    "n_layers": 2,
    "n_heads": 6,
    "hidden_dim": 64,
    "max_position_embeddings": 70,
}
# The class, its configuration's class, and the fields of the configuration.
CASES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", _BERT),
    "bert, tanh, no second type": (
        "BertModel",
        "BertConfig",
        {**_BERT, "hidden_act": "gelu_new", "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "bert for masked tokens": ("BertForMaskedLM", "BertConfig", {**_BERT, "hidden_act": "relu"}),
    "roberta": ("RobertaModel", "RobertaConfig", {**_BERT, "type_vocab_size": 1}),
    "xlm-roberta": (
        "XLMRobertaModel",
        "XLMRobertaConfig",
        {**_BERT, "type_vocab_size": 1, "pad_token_id": 0, "num_attention_heads": 4},
    ),
    "camembert": ("CamembertModel", "CamembertConfig", {**_BERT, "type_vocab_size": 1}),
    "distilbert": ("DistilBertModel", "DistilBertConfig", _DISTIL),
}
CLASSIFIERS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", {**_BERT, "num_labels": 1}),
    "roberta": (
        "RobertaForSequenceClassification",
        "RobertaConfig",
        {**_BERT, "type_vocab_size": 1, "num_labels": 3},
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {**_DISTIL, "num_labels": 2},
    ),
}


def make(case: tuple[str, str, dict[str, Any]], seed: int = 0) -> Any:
    """A model of transformers with random weights; norms and biases are random too."""
    import torch
    import transformers

    name, config, fields = case
    torch.manual_seed(seed)
    model = getattr(transformers, name)(getattr(transformers, config)(**fields)).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each) * 0.2)
    return model


def save(model: Any, directory: Path) -> Path:
    """Saves a model with a tokenizer of a few words."""
    model.save_pretrained(directory)
    vocab = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    backend = tokenizers.Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    return directory


def as_sentence_transformer(
    directory: Path, mode: str = "mean_tokens", *, normalize: bool = True, **files: Any
) -> Path:
    """Writes the files by which sentence-transformers pools a model."""
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 48, f"pooling_mode_{mode}": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, fields in files.items():
        (directory / f"{name}.json").write_text(json.dumps(fields))
    return directory


def batch(lengths: list[int], vocab_size: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ids [B, T] and the mask of those that are tokens; ids of padding are 0."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, vocab_size, (len(lengths), max(lengths)))
    mask = np.arange(max(lengths))[None] < np.asarray(lengths)[:, None]
    return np.where(mask, ids, 0), mask


def change(file: Path, **fields: Any) -> None:
    """Changes fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
