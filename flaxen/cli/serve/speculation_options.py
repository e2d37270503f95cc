"""The option group of `flaxen serve` for speculative decoding, by vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.cli.serve.parser_options import parse_object

_option = partial(option, rich_help_panel=panels.ENGINE)


@dataclass(frozen=True, kw_only=True)
class SpeculationOptions:
    """What proposes draft tokens, and how many."""

    speculative_config: dict[str, Any] | None = _option(
        None,
        "--speculative-config",
        "-sc",
        parser=partial(parse_object, example='{"method": "ngram"}'),
        metavar="JSON",
        help="Speculative decoding: the method ngram or suffix drafts what followed the same "
        'tokens before, draft_model what a second model says, as {"method": "draft_model", '
        '"model": "ORG/NAME"}. Answers are the same with it, to the bit.',
        show_default="none",
    )
    spec_method: str | None = _option(
        None, metavar="METHOD", help="The method of --speculative-config.", show_default="none"
    )
    spec_model: str | None = _option(
        None, metavar="MODEL", help="The model of --speculative-config.", show_default="none"
    )
    spec_tokens: int | None = _option(
        None,
        min=1,
        help="The num_speculative_tokens of --speculative-config: most tokens of a draft.",
        show_default="15; 8 with a draft model",
    )

    def joined(self) -> SpeculationOptions:
        """The same with all in `speculative_config`.

        Raises:
          ValueError: an option says again what the configuration says.
        """
        given = self.speculative_config or {}
        config = {key.replace("-", "_"): value for key, value in given.items()}
        for name, key, value in (
            ("--spec-method", "method", self.spec_method),
            ("--spec-model", "model", self.spec_model),
            ("--spec-tokens", "num_speculative_tokens", self.spec_tokens),
        ):
            if value is None:
                continue
            if key in config:
                raise ValueError(
                    f"{name} says what --speculative-config says with {key!r}: leave one out"
                )
            config[key] = value
        return replace(self, speculative_config=config or self.speculative_config)
