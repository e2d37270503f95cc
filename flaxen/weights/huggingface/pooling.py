"""Reads how a directory's model pools: sentence-transformers' files, and the fields of config.json
of a classification model.

A module or field that would change the result is used or refused by its name. Deliberately does not
know weights, engines, or how a vector is computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxen.hub.weight_files import read_json
from flaxen.protocol import Pooling, PoolingInfo
from flaxen.protocol.pooling import ScoreActivation

_MODULES = "modules.json"
_MODES: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_ACTIVATIONS: Mapping[str, ScoreActivation] = {
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Identity": "none",
}


def is_sentence_transformer(directory: Path) -> bool:
    """Whether a directory says how sentence-transformers pools its model."""
    return (directory / _MODULES).is_file()


def read_embedding(directory: Path, fields: Mapping[str, Any], default: Pooling) -> PoolingInfo:
    """How a directory's model makes embeddings.

    Args:
      directory: with modules.json, or without it.
      fields: of its config.json.
      default: the pooling of a model without modules.json.

    Raises:
      ValueError: a file can't be read, or names something that is not supported.
    """
    dimensions = _dimensions(fields)
    if not is_sentence_transformer(directory):
        return PoolingInfo(task="embed", pooling=default, dimensions=dimensions)
    pooling, normalize = default, False
    for module in _modules(directory):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _mode(directory / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ValueError(
                f"{directory / _MODULES} has the module {module.get('type')!r}, which is not "
                "supported: only Transformer, Pooling and Normalize are, and leaving it out would "
                "change the result"
            )
    own = _optional(directory / "config_sentence_transformers.json")
    prompts = {str(name): str(text) for name, text in (own.get("prompts") or {}).items()}
    default_prompt = own.get("default_prompt_name")
    if default_prompt is not None and default_prompt not in prompts:
        raise ValueError(
            f"{directory / 'config_sentence_transformers.json'} has the default_prompt_name "
            f"{default_prompt!r}, and prompts has {', '.join(prompts) or 'none'}"
        )
    return PoolingInfo(
        task="embed",
        pooling=pooling,
        normalize=normalize,
        dimensions=dimensions,
        prompts=prompts,
        default_prompt=default_prompt,
        max_tokens=_max_tokens(directory),
    )


def read_classification(
    fields: Mapping[str, Any], num_labels: int, pooling: Pooling
) -> PoolingInfo:
    """How a classification model's logits become scores.

    The order is vLLM's. What sentence-transformers wrote into config.json goes first. Then
    `problem_type` decides: a sigmoid for several labels at once, nothing for a regression. Without
    both it is a sigmoid for one label, and a softmax over several.

    Args:
      fields: of config.json.
      num_labels: of the head.
      pooling: the token that the head reads.

    Raises:
      ValueError: a field names something that is not supported.
    """
    names = fields.get("id2label") or {}
    labels = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(num_labels))
    return PoolingInfo(
        task="classify", pooling=pooling, labels=labels, activation=_activation(fields, num_labels)
    )


def _activation(fields: Mapping[str, Any], num_labels: int) -> ScoreActivation:
    given = (fields.get("sentence_transformers") or {}).get("activation_fn") or fields.get(
        "sbert_ce_default_activation_function"
    )
    if given is not None:
        name = str(given).rsplit(".", 1)[-1].removesuffix("()")
        if name not in _ACTIVATIONS:
            raise ValueError(
                f"the activation {given!r} in config.json is not supported: only "
                f"{', '.join(_ACTIVATIONS)} are"
            )
        return _ACTIVATIONS[name]
    match fields.get("problem_type"):
        case "regression":
            return "none"
        case "multi_label_classification":
            return "sigmoid"
        case "single_label_classification" | None:
            return "sigmoid" if num_labels == 1 else "softmax"
        case other:
            raise ValueError(
                f"problem_type = {other!r} is not supported: use regression, "
                "single_label_classification or multi_label_classification"
            )


def _modules(directory: Path) -> list[Mapping[str, Any]]:
    file = directory / _MODULES
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}; fetch the file again") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{file} must hold a list of modules, each an object")
    return found


def _mode(file: Path) -> Pooling:
    """The pooling of a Pooling module's config.json."""
    fields = read_json(file)
    modes = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value]
    named = fields.get("pooling_mode")
    if not modes and isinstance(named, str):  # newer files
        modes = [{"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}.get(
            named, f"pooling_mode_{named}")]  # fmt: skip
    if len(modes) != 1 or modes[0] not in _MODES:
        raise ValueError(
            f"{file} has the pooling {', '.join(modes) or 'none'}, which is not supported: one of "
            f"{', '.join(_MODES)} is"
        )
    if fields.get("include_prompt") is False:
        raise ValueError(
            f"{file} has include_prompt = false, which is not supported: the tokens of a prompt's "
            "instruction would have to be left out of the pooling"
        )
    return _MODES[modes[0]]


def _max_tokens(directory: Path) -> int | None:
    """The longest input of sentence_bert_config.json."""
    fields = _optional(directory / "sentence_bert_config.json")
    value = fields.get("max_seq_length")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"max_seq_length in {directory / 'sentence_bert_config.json'} must be a whole number "
            f"above 0, got {value!r}"
        )
    return value


def _dimensions(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """The lengths of a Matryoshka model's vectors."""
    given = fields.get("matryoshka_dimensions") or ()
    if not isinstance(given, list | tuple) or not all(
        isinstance(each, int) and each > 0 for each in given
    ):
        raise ValueError(f"matryoshka_dimensions must be whole numbers above 0, got {given!r}")
    return tuple(given)


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
