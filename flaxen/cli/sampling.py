"""The options of sampling, and which parameters hold where the user gives none.

A parameter is the user's, else the model's own by its generation_config.json, else the command's.
Deliberately does not know engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.protocol import SamplingParams

_option = partial(option, rich_help_panel=panels.SAMPLING)
_AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class GenerationConfigOptions:
    """The source of the sampling parameters that nobody gives."""

    generation_config: str = option(
        _AUTO,
        metavar="auto|vllm|DIR",
        help="Sampling parameters where none are given: auto takes them from the model's own "
        "generation_config.json, vllm takes none, DIR has another such file.",
        rich_help_panel=panels.MODEL,
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The sampling parameters of answers. None leaves one to the model, and then to the command."""

    max_tokens: int | None = _option(
        None,
        min=1,
        help="Most tokens of an answer.",
        show_default="the model's own; else 512 in chat, 128 in generate",
    )
    temperature: float | None = _option(
        None,
        min=0.0,
        help="0 always takes the likeliest token; higher is more varied.",
        show_default="the model's own; else 0.7 in chat, 0 in generate",
    )
    top_p: float | None = _option(
        None,
        min=0.0,
        max=1.0,
        help="Sample from the likeliest tokens whose probabilities sum to this; 0 keeps the "
        "likeliest only.",
        show_default="the model's own; else 1, all tokens",
    )
    top_k: int | None = _option(
        None,
        min=0,
        help="Sample from this many likeliest tokens; 0 is all.",
        show_default="the model's own; else 0",
    )
    min_p: float | None = _option(
        None,
        min=0.0,
        max=1.0,
        help="Sample from the tokens that are at least this probable, relative to the "
        "likeliest one.",
        show_default="the model's own; else 0",
    )
    repetition_penalty: float | None = _option(
        None,
        help="Above 1: makes tokens that are in the prompt or the answer less likely.",
        show_default="the model's own; else 1",
    )
    presence_penalty: float | None = _option(
        None,
        min=-2.0,
        max=2.0,
        help="Subtracted from the logit of each token that is in the answer.",
        show_default="0",
    )
    frequency_penalty: float | None = _option(
        None,
        min=-2.0,
        max=2.0,
        help="Subtracted from the logit of a token for each time that it is in the answer.",
        show_default="0",
    )
    seed: int | None = _option(
        None, help="Seed of the sampling: the same seed gives the same text.", show_default="random"
    )
    stop: list[str] = _option([], help="Text that ends an answer; may be given several times.")

    def given(self) -> dict[str, Any]:
        """The parameters that the user gave, by their names in SamplingParams.

        Raises:
          ValueError: a value is out of its range.
        """
        found = {name: value for name, value in vars(self).items() if value not in (None, [])}
        SamplingParams(**found)  # a wrong value must not wait for the weights
        return found


def describe_defaults(
    defaults: Mapping[str, Any], given: Mapping[str, Any], source: str
) -> str | None:
    """Says which sampling parameters come from a generation_config.json; None for none.

    Args:
      defaults: ModelInfo.default_sampling.
      given: the parameters that the user gave, which replace those of the file.
      source: --generation-config.
    """
    used = [f"{name} {value}" for name, value in defaults.items() if name not in given]
    if not used:
        return None
    place = "the model's generation_config.json" if source == _AUTO else source
    return f"sampling: {', '.join(used)} by {place}"
