"""The base model of a PEFT adapter, which its adapter_config.json names.

Code is never run because an adapter names it. Deliberately does not know tensors.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from flaxen.hub.places import Places
from flaxen.hub.resolve import resolve
from flaxen.hub.weight_files import ADAPTER_CONFIG
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.config import read_config
from flaxen.weights.reference import parse_reference

_FIELD = "base_model_name_or_path"


def is_adapter(directory: Path) -> bool:
    """Whether a path is the directory of an adapter, and not of a model."""
    has_model = (directory / "config.json").is_file()
    return (directory / ADAPTER_CONFIG).is_file() and not has_model


def base_reference(model: str) -> str:
    """The name of a base model to write into an adapter: a path is absolute, so that the base is
    found from any directory.
    """
    code = parse_reference(model)
    if code is not None:
        absolute = None if code.file is None else Path(os.path.abspath(code.file))
        return str(dataclasses.replace(code, file=absolute))
    path = os.path.expanduser(model)
    return os.path.abspath(path) if os.path.exists(path) else model


def find_base(directory: Path, places: Places | None = None) -> str:
    """The base model that an adapter names, in this machine's files or on the hub.

    Args:
      directory: the adapter's.
      places: where the base is looked for, as in `resolve`.

    Raises:
      ValueError: the adapter names none, or one that can't be found or is code; the message has the
          command that names it.
    """
    base = read_config(directory / ADAPTER_CONFIG).get(_FIELD)
    remedy = f"give the base model as MODEL, and the adapter by --adapter {directory}"
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{directory} is a LoRA adapter, and its {ADAPTER_CONFIG} names no base model "
            f"({_FIELD} is {base!r}): {remedy}"
        )
    if parse_reference(base) is not None:
        raise ValueError(
            f"{directory} is a LoRA adapter of the definition {base}, and code is not run because "
            f"an adapter names it: give {base} as MODEL, and the adapter by --adapter {directory}"
        )
    try:
        resolve(base, places)
    except ValueError as error:
        raise ValueError(
            f"{directory} is a LoRA adapter of {base!r}, which is not found here: {error}. Or "
            f"{remedy}"
        ) from None
    return base


def highest_rank(adapter: Adapter | str | Path) -> int:
    """A rank that is at least that of each module of an adapter, or of one in a directory.

    Raises:
      ValueError: the configuration is missing, damaged or not supported.
    """
    if isinstance(adapter, Adapter):
        return adapter.config.rank
    fields = read_config(Path(os.path.expanduser(adapter)) / ADAPTER_CONFIG)
    patterns = fields.get("rank_pattern") or {}
    ranks = [fields.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    # A rank that is not a number is refused when the weights are read.
    return max([rank for rank in ranks if isinstance(rank, int) and rank > 0], default=1)
