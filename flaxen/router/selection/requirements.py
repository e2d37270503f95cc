"""Requirements: which candidates can answer a request at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flaxen.router.request import RoutedRequest
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.selected import Cause, Excluded
from flaxen.router.signals.context import num_tokens
from flaxen.router.signals.settings import CountTokens

# Capabilities that say that a model takes a modality.
_SAYS = {"image": ("vision", "multimodal"), "audio": ("audio",), "video": ("video",)}
Split = tuple[list[Candidate], list[Excluded]]  # what can answer, and what can't


@dataclass(frozen=True, kw_only=True)
class CandidateRequirements:
    """What a model must declare, to be chosen for a request that needs it.

    What a model declares always counts. These are for what it does not declare, which else is taken
    to be there.

    Attributes:
      capabilities: declared: a request with images, tools or a format needs a model that says that
        it takes them.
      context: known_limits: a model must say how much it takes and gives.
    """

    capabilities: Literal["", "declared"] = ""
    context: Literal["", "known_limits"] = ""


def split(
    request: RoutedRequest,
    candidates: Sequence[Candidate],
    requirements: CandidateRequirements,
    facts: Facts,
    failed: Mapping[str, str],
) -> Split:
    """The candidates that can answer a request, in their order, and the others, each with the first
    reason against it: what never changes comes before what may pass.

    Args:
      failed: why models failed this request already, by `model`.
    """
    counts: dict[CountTokens | None, int] = {}  # candidates may share a tokenizer

    def num_prompt(candidate: Candidate) -> int:
        if candidate.count_tokens not in counts:
            counts[candidate.count_tokens] = num_prompt_tokens(request, candidate)
        return counts[candidate.count_tokens]

    def reasons(candidate: Candidate) -> Iterator[tuple[Cause, str]]:
        live = facts.of(candidate)
        if live.denied:
            yield "authorization", live.denied
        yield from _incapable(request, candidate, requirements.capabilities == "declared")
        if requirements.context == "known_limits":
            yield from _undeclared(candidate)
        yield from _too_long(request.max_tokens or 1, candidate, num_prompt)
        if candidate.model in failed:
            yield "failed", f"it failed this request: {failed[candidate.model]}"
        if candidate.name in facts.asked:
            yield "failed", facts.asked[candidate.name]
        if live.is_open:
            yield "circuit", "its circuit is open, because it failed too often"

    pool, excluded = [], []
    for candidate in candidates:
        against = next(reasons(candidate), None)
        if against is None:
            pool.append(candidate)
        else:
            excluded.append(Excluded(candidate.name, *against))
    return pool, excluded


def num_prompt_tokens(request: RoutedRequest, candidate: Candidate) -> int:
    """The tokens of a request's prompt, by the candidate's own count."""
    return num_tokens(request, candidate.count_tokens) - (request.max_tokens or 0)


def _incapable(
    request: RoutedRequest, candidate: Candidate, must_declare: bool
) -> Iterator[tuple[Cause, str]]:
    """What a request needs, and a candidate does not take."""
    if candidate.api not in ("", request.api):
        yield "api", f"its server knows {candidate.api} alone, and the request is of {request.api}"
    for modality in sorted(request.modalities - candidate.modalities - {"text"}):
        if candidate.capabilities.isdisjoint(_SAYS[modality]) and (
            must_declare or candidate.modalities
        ):
            yield "modality", f"the request has {modality}, which it does not declare"
    if not must_declare:
        return
    if request.tools and request.tool_choice != "none" and "tools" not in candidate.capabilities:
        yield "tools", "the request has tools, and it does not declare the capability tools"
    form = (request.response_format or {}).get("type", "text")
    if form != "text" and "structured_output" not in candidate.capabilities:
        yield (
            "structured_output",
            f"the answer must be {form}, and it does not declare the capability structured_output",
        )


def _undeclared(candidate: Candidate) -> Iterator[tuple[Cause, str]]:
    """Limits that a candidate must declare, and does not."""
    if candidate.max_output_tokens is None:
        yield "output", "it does not declare max_output_tokens"
    if candidate.context_window is None:
        yield "context", "it does not declare context_window_size"


def _too_long(
    num_answer: int, candidate: Candidate, num_prompt: Callable[[Candidate], int]
) -> Iterator[tuple[Cause, str]]:
    """Limits of a candidate that a request with an answer of so many tokens is over."""
    most, window = candidate.max_output_tokens, candidate.context_window
    if most is not None and num_answer > most:
        yield "output", f"the answer may have {num_answer} tokens, and its are at most {most} long"
    if window is not None and (needed := num_prompt(candidate) + num_answer) > window:
        yield "context", f"the request needs {needed} tokens, and its context has {window}"
