"""Builds a transformers model from a config.json and tensors, and checks that all tensors fit.

transformers itself would fill missing tensors with random numbers, drop unknown ones, and cast
quantized weights like plain ones. It gets the tensors and never sees the directory, so it can't
find a pickle, code or an adapter there. Deliberately does not know files or engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import torch
import transformers

from flaxen.bridges.torch.bridge import first_line
from flaxen.definitions.torch.misfits import INTEGERS, compared, on_meta, refuse, reported
from flaxen.tensors.tensor import StoredTensor

# dtypes that a class may have besides weights: masks and integer tables.
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


def load_module(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> transformers.PreTrainedModel:
    """Builds transformers' model for a configuration, with the weights.

    Args:
      fields: the fields of config.json.
      tensors: by their names in the files, with dtypes of DTYPES.

    Raises:
      ValueError: transformers does not know the class, or the class computes no logits; a tensor is
          missing, unknown or of another shape.
    """
    config = _configuration(fields)
    module_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if module_class is None:
        raise ValueError(
            f"transformers {transformers.__version__} has no causal language model for model_type "
            f"{fields['model_type']!r}: only classes that give logits of the next token can be "
            "served"
        )
    text = config.get_text_config(decoder=True)
    if module_class.config_class is type(text):
        config = text  # only the language model of a class with several parts
    name = module_class.__name__
    given = _given(module_class, config, tensors)
    with _quiet():
        try:
            module, found = module_class.from_pretrained(
                None,
                config=config,
                state_dict=given,
                dtype=_dtype(config, tensors),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that mismatches are reported, and refused below
                local_files_only=True,
                use_safetensors=True,
            )
        except Exception as error:  # the class's own code may raise anything
            _refuse_failed(module_class, config, tensors, error)
    refuse(name, reported(found), tensors)
    _refuse_integers(module, tensors)
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
        # transformers modifies its argument.
        return transformers.CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(fields)))
    except Exception as error:  # the class's own code may raise anything
        raise ValueError(
            f"transformers does not take this config.json for {kind!r}: {first_line(error)}"
        ) from error


def _given(
    module_class: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tensors: Mapping[str, StoredTensor],
) -> dict[str, torch.Tensor]:
    """The tensors for transformers: integers are replaced by NaN unless the class has an integer
    table.

    transformers would cast them to floats, without the scales of quantized weights.
    """
    given = {name: _tensor(each) for name, each in tensors.items()}
    integers = [name for name, each in tensors.items() if each.dtype in INTEGERS]
    if not integers:
        return given
    tables = [
        name
        for name, each in on_meta(module_class, config).state_dict().items()
        if not each.is_floating_point()
    ]
    for name in integers:
        if not any(name.endswith(table) or table.endswith(name) for table in tables):
            given[name] = torch.full_like(given[name], float("nan"), dtype=torch.float32)
    return given


def _refuse_integers(
    module: transformers.PreTrainedModel, tensors: Mapping[str, StoredTensor]
) -> None:
    integers = [name for name, each in tensors.items() if each.dtype in INTEGERS]
    for name, each in module.named_parameters() if integers else ():
        if bool(each.isnan().any()):
            raise ValueError(
                f"{type(module).__name__}'s {name} is of floating point, and the files hold "
                f"integers or NaN there ({integers[0]} is {tensors[integers[0]].dtype}): if the "
                "weights are quantized, use the checkpoint before quantization"
            )


def _refuse_failed(
    module_class: type[transformers.PreTrainedModel],
    config: transformers.PretrainedConfig,
    tensors: Mapping[str, StoredTensor],
    error: Exception,
) -> NoReturn:
    """Explains a failure of transformers by the tensors, or else by its own message."""
    name = module_class.__name__
    failed = ValueError(f"transformers can't make {name} of these files: {first_line(error)}")
    try:
        misfits = compared(module_class, config, tensors)
    except Exception:  # the class can't be made at all, as `error` says
        raise failed from error
    refuse(name, misfits, tensors)
    raise failed from error


def _tensor(stored: StoredTensor) -> torch.Tensor:
    rows = stored.read(0, stored.shape[0] if stored.shape else 1).reshape(stored.shape)
    if stored.dtype == "BF16":
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def _dtype(config: Any, tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """Returns the dtype of transformers' "auto": the configuration's, else the first tensor's."""
    if config.dtype is not None:
        named: torch.dtype = config.dtype
        return named
    return next((_FLOATS[t.dtype] for t in tensors.values() if t.dtype in _FLOATS), torch.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' table of tensors that do not fit: we refuse them in one line."""
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
