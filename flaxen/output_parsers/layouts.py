"""How a format writes calls whose arguments are JSON: the texts around names and arguments.

They are what a constrained answer must look like, so that the format's own parser reads it
(`constraints.py`). Deliberately does not know grammars or tools.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flaxen.output_parsers.formats import deepseek, harmony, kimi_k2, mistral

NAME, NUMBER = "\ue000", "\ue001"  # in a layout: the tool's name, and a number of the model's own


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The texts of a format around its calls."""

    begin: str = ""  # before the first call
    before: str  # before the arguments of each call; holds NAME, and perhaps NUMBER
    after: str  # behind them
    between: str | None  # between two calls; None: an answer has one call
    end: str = ""  # behind the last call
    # The first of these texts in an answer begins a call; None: it can't be told from content.
    trigger: str | None


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """The texts around reasoning that a call or content follows."""

    begin: str
    end: str
    breaks_behind: bool  # whether line breaks may stand behind it
    content_begin: str = ""  # before content


_OBJECT, _PARAMETERS = (f'{{"name": "{NAME}", "{key}": ' for key in ("arguments", "parameters"))
_CLOSE = "}"

HERMES = Layout(
    before=f"<tool_call>\n{_OBJECT}", after=f"{_CLOSE}\n</tool_call>", between="\n",
    trigger="<tool_call>",
)  # fmt: skip
LLAMA_JSON = Layout(before=_PARAMETERS, after=_CLOSE, between="; ", trigger=None)
MISTRAL_ARGS = Layout(
    before=f"{mistral.BEGIN}{NAME}[ARGS]", after="", between="", trigger=mistral.BEGIN
)
DEEPSEEK_V3 = Layout(
    begin=deepseek.SECTION,
    before=f"{deepseek.CALL}function{deepseek.SEPARATOR}{NAME}\n```json\n",
    after=f"\n```{deepseek.CALL_END}", between="\n",
    end=deepseek.SECTION_END, trigger=deepseek.SECTION,
)  # fmt: skip
DEEPSEEK_V31 = replace(
    DEEPSEEK_V3,
    before=f"{deepseek.CALL}{NAME}{deepseek.SEPARATOR}",
    after=deepseek.CALL_END,
    between="",
)
KIMI_K2 = Layout(
    begin=kimi_k2.SECTION,
    before=f"{kimi_k2.CALL}functions.{NAME}:{NUMBER}{kimi_k2.ARGUMENTS}",
    after=kimi_k2.CALL_END, between="",
    end=kimi_k2.SECTION_END, trigger=kimi_k2.SECTION,
)  # fmt: skip
HARMONY = Layout(
    before=f"{harmony.CHANNEL}commentary to=functions.{NAME} <|constrain|>json{harmony.MESSAGE}",
    after="", between=None, trigger=None,  # the marker that ends it ends the answer too
)  # fmt: skip
HARMONY_THOUGHTS = Thoughts(
    begin=f"{harmony.CHANNEL}analysis{harmony.MESSAGE}",
    end=f"<|end|>{harmony.START}assistant",
    breaks_behind=False,
    content_begin=f"{harmony.CHANNEL}final{harmony.MESSAGE}",
)


def list_behind(begin: str) -> Layout:
    """Calls as one list of objects behind a marker."""
    return Layout(
        begin=f"{begin}[", before=_OBJECT, after=_CLOSE, between=", ", end="]",
        trigger=begin.strip(),
    )  # fmt: skip
