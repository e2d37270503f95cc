"""The encoder families, by the names that a config.json gives: one file each, as for decoders."""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.families import bert, distilbert, roberta
from flaxen.families.encoder_family import EncoderFamily

_ALL = (bert.FAMILY, roberta.ROBERTA, roberta.XLM_ROBERTA, roberta.CAMEMBERT, distilbert.FAMILY)

# By `architectures` of config.json, or its `model_type`.
ENCODERS: Mapping[str, EncoderFamily] = {
    **{name: family for family in _ALL for name in family.architectures},
    **{family.model_type: family for family in _ALL},
}
