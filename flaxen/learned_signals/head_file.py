"""The file of a head: safetensors, with what describes it as JSON in the header's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flaxen.learned_signals.head import Head
from flaxen.learned_signals.windows import unit

_FORMAT = "flaxen-head-1"
_FIELDS = ("task", "labels", "activation", "temperature", "thresholds", "suspicions", "report")


def save_head(head: Head, path: Path) -> None:
    """Writes a head; a file that is there is replaced in one step.

    Raises:
      OSError: it can't be written.
    """
    described = {name: getattr(head, name) for name in _FIELDS}
    tensors: dict[str, np.ndarray] = {
        "weights": head.weights.astype(np.float32),
        "bias": head.bias.astype(np.float32),
        "anchors": head.anchors.astype(np.float16),
    }
    # One entry alone: safetensors writes several in any order, and a head has one file.
    metadata = {_FORMAT: json.dumps(described, default=dict, sort_keys=True)}
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(save(tensors, metadata))
    unfinished.replace(path)


def load_head(path: Path) -> Head:
    """Reads a head.

    Raises:
      OSError: there is no such file.
      ValueError: it is no head, of another format, or its parts do not fit together.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: train a head with flaxen route train")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _FORMAT not in metadata:
                raise ValueError(
                    f"{path} is no head of the format {_FORMAT}: train it again with flaxen route "
                    "train"
                )
            tensors = {name: file.get_tensor(name) for name in ("weights", "bias", "anchors")}
    except SafetensorError as error:
        raise ValueError(f"{path} is no head: {error}") from None
    try:
        described: dict[str, Any] = json.loads(metadata[_FORMAT])
        reads_pieces = "suspicions" in described
        head = _head_of(tensors, described)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} was changed after its training, and is no head now ({error!r}): train it "
            "again with flaxen route train"
        ) from None
    if head.reads_pieces and not reads_pieces:
        raise ValueError(
            f"{path} was fitted to whole windows, and {head.task} is looked for in sentences now: "
            f"train it again with flaxen route train {head.task}"
        )
    return head


def _head_of(tensors: dict[str, np.ndarray], described: dict[str, Any]) -> Head:
    """A head of the parts of a file, which may be anything: other errors than ValueError tell of
    wrong types."""
    for name in ("thresholds", "suspicions"):
        given = described.get(name, {})
        described[name] = {label: float(value) for label, value in given.items()}
    described["labels"] = tuple(described["labels"])
    weights, bias, anchors = (
        tensors[name].astype(np.float32) for name in ("weights", "bias", "anchors")
    )
    return Head(weights=weights, bias=bias, anchors=unit(anchors), **described)
