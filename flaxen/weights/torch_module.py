"""Makes a class of transformers from a config.json and tensors: all of them are there, and fit.

transformers itself would fill what is missing with random numbers, drop what has no place, and cast
quantized weights as if they were plain ones. It is given the tensors, and never sees the directory:
no pickle, no code, no adapter of it can be found. Deliberately does not know files or engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch
import transformers

from flaxen.models.bridges.torch import first_line
from flaxen.weights.tensor import StoredTensor

# What a class may have beside weights: masks and tables of integers.
DTYPES: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NUM_NAMED = 3  # tensors that a message names


def load_module(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> transformers.PreTrainedModel:
    """The class that transformers has for a configuration, with the weights.

    Args:
      fields: of config.json.
      tensors: by their names in the files, of DTYPES.

    Raises:
      ValueError: transformers does not know the class, or it makes no scores of tokens; a tensor is
        missing, has no place or another shape.
    """
    config = _configuration(fields)
    module_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if module_class is None:
        raise ValueError(
            f"transformers {transformers.__version__} has no causal language model for model_type "
            f"{fields['model_type']!r}: only classes that give scores of the next token can be "
            "served"
        )
    text = config.get_text_config(decoder=True)
    if module_class.config_class is type(text):
        config = text  # the language model alone, of a class with more
    name = module_class.__name__
    with _quiet():
        try:
            module, found = module_class.from_pretrained(
                None,
                config=config,
                state_dict={key: _tensor(each) for key, each in tensors.items() if _is_plain(each)},
                dtype=_dtype(config, tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told, and refused below
                local_files_only=True,
                use_safetensors=True,
            )
        except Exception as error:  # of any kind: it is the class's own code
            raise ValueError(
                f"transformers can't make {name} of these files: {first_line(error)}"
            ) from error
    _refuse_misfits(name, found, tensors)
    loaded: transformers.PreTrainedModel = module
    return loaded


def _configuration(fields: Mapping[str, Any]) -> transformers.PretrainedConfig:
    kind = fields["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        own = " Its own Python code (auto_map) is never run." if fields.get("auto_map") else ""
        raise ValueError(
            f"transformers {transformers.__version__} does not know model_type {kind!r}.{own} A "
            "newer transformers may"
        )
    try:
        # It writes into what it is given.
        return transformers.CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(fields)))
    except Exception as error:  # of any kind: it is the class's own code
        raise ValueError(
            f"transformers does not take this config.json for {kind!r}: {first_line(error)}"
        ) from error


def _is_plain(tensor: StoredTensor) -> bool:
    """Eight-bit integers would be cast to floats without their scales."""
    return tensor.dtype != "U8"


def _tensor(stored: StoredTensor) -> torch.Tensor:
    rows = stored.read(0, stored.shape[0] if stored.shape else 1).reshape(stored.shape)
    if stored.dtype == "BF16":
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def _dtype(config: Any, tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """As transformers' "auto": the configuration's, else the first tensor's."""
    if config.dtype is not None:
        named: torch.dtype = config.dtype
        return named
    return next((_FLOATS[t.dtype] for t in tensors.values() if t.dtype in _FLOATS), torch.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers prints a table of what does not fit; it is refused in one line instead."""
    log = transformers.utils.logging
    level, has_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if has_bars:
            log.enable_progress_bar()


def _refuse_misfits(
    name: str, found: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> None:
    missing, unplaced = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    misshaped = [
        f"{key} is {list(held)} and should be {list(wanted)}"
        for key, held, wanted in sorted(found["mismatched_keys"])
    ]
    said = [
        f"{text} ({len(each)}): {_listed(each)}"
        for text, each in (
            ("missing from the files", missing),
            ("without a place in the class", unplaced),
            ("of another shape", misshaped),
        )
        if each
    ]
    if found["error_msgs"]:
        said.append(" ".join(found["error_msgs"][0].split()))
    if not said:
        return
    raise ValueError(
        f"the tensors are not those that config.json makes {name} have: {'; '.join(said)}. "
        f"{_advice(missing, unplaced, tensors)}"
    )


def _advice(missing: list[str], unplaced: list[str], tensors: Mapping[str, StoredTensor]) -> str:
    ends = [key for key in unplaced if missing and key.endswith(missing[0])]
    if ends:
        prefix = ends[0].removesuffix(missing[0])
        return f"If all names begin with {prefix!r}, remove that from them"
    integers = [key for key, each in tensors.items() if each.dtype in ("U8", "I32")]
    if integers:
        return (
            f"{integers[0]} holds integers: if the weights are quantized, use the checkpoint "
            "before quantization"
        )
    return "Download the weights and config.json of one and the same checkpoint"


def _listed(names: list[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
