"""Finds tensors that do not fit a class of transformers, and makes the error that names them.

Deliberately does not know how a class is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from flaxen.tensors.tensor import StoredTensor

INTEGERS = ("U8", "I32", "I64", "BOOL")  # of safetensors
_NUM_NAMED = 3  # tensors that a message names


class Misfits(NamedTuple):
    """The tensors that do not fit, by names of the class or of the files, in order."""

    missing: Sequence[str]
    unplaced: Sequence[str]
    misshaped: Sequence[tuple[str, Sequence[int], Sequence[int]]]  # name, held, wanted


def reported(found: Mapping[str, Any]) -> Misfits:
    """Reads transformers' loading information."""
    return Misfits(
        sorted(found["missing_keys"]),
        sorted(found["unexpected_keys"]),
        sorted(found["mismatched_keys"]),
    )


def compared(
    module_class: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tensors: Mapping[str, StoredTensor],
) -> Misfits:
    """The same, by comparison with the layout in which the class is saved, if transformers failed.

    transformers merges the tensors of experts, and does not report which one is missing.
    """
    module = on_meta(module_class, config)
    wanted = {
        name: list(each.shape)
        for name, each in revert_weight_conversion(module, module.state_dict()).items()
    }
    shapes = {name: list(each.shape) for name, each in tensors.items()}
    return Misfits(
        sorted(wanted.keys() - shapes.keys() - module.all_tied_weights_keys.keys()),
        sorted(shapes.keys() - wanted.keys()),
        [
            (name, shapes[name], wanted[name])
            for name in sorted(shapes.keys() & wanted.keys())
            if shapes[name] != wanted[name]
        ],
    )


def on_meta(
    module_class: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig
) -> transformers.PreTrainedModel:
    """Builds the class without memory for its weights."""
    with torch.device("meta"):
        return module_class(config)


def refuse(name: str, misfits: Misfits, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises an error that names the tensors that do not fit, if any.

    Args:
      name: the name of the class.
      misfits: its misfits.
      tensors: the files' tensors.

    Raises:
      ValueError: some tensors do not fit.
    """
    misshaped = [
        f"{key} is {list(held)} and should be {list(wanted)}"
        for key, held, wanted in misfits.misshaped
    ]
    said = [
        f"{text} ({len(each)}): {_listed(each)}"
        for text, each in (
            ("missing from the files", misfits.missing),
            ("without a place in the class", misfits.unplaced),
            ("of another shape", misshaped),
        )
        if each
    ]
    if said:
        raise ValueError(
            f"the tensors are not those that config.json makes {name} have: {'; '.join(said)}. "
            f"{_advice(misfits, tensors)}"
        )


def _advice(misfits: Misfits, tensors: Mapping[str, StoredTensor]) -> str:
    for first in misfits.missing[:1]:
        ends = [key for key in misfits.unplaced if key.endswith(first)]
        if ends:
            return f"If all names begin with {ends[0].removesuffix(first)!r}, remove that from them"
    integers = [key for key, each in tensors.items() if each.dtype in INTEGERS]
    if integers:
        return (
            f"{integers[0]} holds integers: if the weights are quantized, use the checkpoint "
            "before quantization"
        )
    return "Download the weights and config.json of one and the same checkpoint"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
