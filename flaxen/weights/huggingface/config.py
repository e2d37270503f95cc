"""Reads a config.json: the family that it names, and the decoder's configuration.

Deliberately does not know weights: this is all that there is to know of a model without them.
"""

from __future__ import annotations

from pathlib import Path

from flaxen.hub.weight_files import read_json
from flaxen.models.config import DecoderConfig
from flaxen.models.families import Family, find_family
from flaxen.weights.huggingface.architecture import architecture


def read_config(file: Path) -> tuple[Family, DecoderConfig]:
    """Reads a config.json.

    Raises:
      ValueError: it can't be read, or the family or a field is not supported; a family that is not
        known is an UnknownFamilyError.
    """
    fields = read_json(file)
    try:
        family = find_family(architecture(fields))
        return family, family.config_from_hf(fields)
    except ValueError as error:
        raise type(error)(f"{file}: {error}") from None
