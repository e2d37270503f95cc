"""SignalSettings: what the signals of a configuration share, beside their rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import Found

CountTokens = Callable[[str], int]
Finder = Callable[[RoutedRequest], Sequence[Found]]  # one Found for each rule, in their order


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The headers that say who asks (`authz.identity`): only what stands before the router may set
    them, and must remove those that a client sends.

    Attributes:
      user_id_header, user_groups_header: their names; groups are separated by commas.
      fail_open: whether a request without a user has no roles, instead of being refused.
    """

    user_id_header: str = "x-authz-user-id"
    user_groups_header: str = "x-authz-user-groups"
    fail_open: bool = False


@dataclass(frozen=True, kw_only=True)
class ModalityDetector:
    """How the wanted modality of an answer is found (`modality_detector`).

    Attributes:
      method: keyword, or classifier and hybrid, which need a model.
      keywords: texts that ask for an image.
      both_keywords: texts that, beside one of those, ask for a text as well.
    """

    method: str = "classifier"
    keywords: tuple[str, ...] = ()
    both_keywords: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SignalSettings:
    """What the signals of a configuration share.

    Attributes:
      identity: who asks.
      modality: how the modality of an answer is found.
      count_tokens: the tokens of a text by the tokenizer of the model that it is for; None
        estimates them from its bytes.
    """

    identity: Identity = Identity()
    modality: ModalityDetector = ModalityDetector()
    count_tokens: CountTokens | None = None


def one_by_one(
    find: Callable[[Any, RoutedRequest], Found],
) -> Callable[[Sequence[Any], SignalSettings], Finder]:
    """Makes a kind's finder of a function of one rule that needs no settings."""

    def prepare(rules: Sequence[Any], settings: SignalSettings) -> Finder:
        return lambda request: [find(rule, request) for rule in rules]

    return prepare
