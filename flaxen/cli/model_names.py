"""Completes MODEL in a shell: short names, and the models on this machine.

A shell completes paths itself where no name matches. Deliberately never asks the network.
"""

from __future__ import annotations

import os
from pathlib import Path

from flaxen.hub.inventory import list_models
from flaxen.hub.names import NAMED, HubModel
from flaxen.hub.places import Places


def complete_model(incomplete: str) -> list[str]:
    """The names of models that begin so."""
    return _beginning(incomplete, {*NAMED, *_local()})


def complete_local(incomplete: str) -> list[str]:
    """The names of models on this machine that begin so."""
    return _beginning(incomplete, _local())


def complete_pulled(incomplete: str) -> list[str]:
    """The short names of models of the hub that begin so."""
    return _beginning(incomplete, {n for n, m in NAMED.items() if isinstance(m, HubModel)})


def _local() -> set[str]:
    """Names without quantizations: bash takes a colon for the end of a word, and the one that is
    here is found without it.
    """
    models_dir = os.environ.get("FLAXEN_MODELS_DIR")
    places = Places(models_dir=Path(models_dir) if models_dir else None)
    try:
        return {model.name.partition(":")[0] for model in list_models(places)}
    except (OSError, ValueError):  # a message would be printed into the line that is typed
        return set()


def _beginning(incomplete: str, names: set[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
