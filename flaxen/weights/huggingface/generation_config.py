"""Sampling defaults recommended by a model's authors: generation_config.json, used as in vLLM.

Deliberately does not know engines, nor where a model's files are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from flaxen.hub.weight_files import read_json
from flaxen.protocol import SamplingParams

_LOG = logging.getLogger(__name__)
FILE = "generation_config.json"
AUTO, NEUTRAL = "auto", "vllm"

# The file's field -> the field of SamplingParams. As in vLLM, `do_sample` is ignored: a request's
# temperature decides whether it samples.
_FIELDS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def sampling_defaults(source: str, model: Path | None) -> dict[str, float | int]:
    """The default sampling parameters of requests.

    Args:
      source: "auto" is the model's own file, "vllm" is none, otherwise a directory with the file.
      model: the model's directory or file; None for one in memory.

    Returns:
      Fields of SamplingParams, only those that the file sets.

    Raises:
      ValueError: the directory or file is missing, or a value is out of range.
    """
    if source == NEUTRAL:
        return {}
    if source == AUTO:
        if model is None or not (model / FILE).is_file():
            return {}
        file = model / FILE
    else:
        path = Path(os.path.expanduser(source))
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise ValueError(
                f"generation_config is {source!r}, and {file} does not exist: give a directory "
                f"with {FILE}, {AUTO} for the model's own, or {NEUTRAL} for none"
            )
    fields = read_json(file)
    found = {
        ours: fields[theirs] for theirs, ours in _FIELDS.items() if fields.get(theirs) is not None
    }
    try:
        SamplingParams(**found)
    except ValueError as error:
        raise ValueError(
            f"{file} has sampling defaults that can't be used: {error}. Correct it, or leave it "
            f"out with generation_config {NEUTRAL}"
        ) from None
    if found:
        _LOG.info(
            "%s sets %s for requests that do not say; generation_config %s turns that off",
            file,
            ", ".join(f"{name} = {value}" for name, value in found.items()),
            NEUTRAL,
        )
    return found
