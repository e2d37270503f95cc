"""Readings with vectors that tests choose, and requests of users."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from flaxen.learned_signals.finder import LearnedFinder
from flaxen.learned_signals.head import Head, HeadStack
from flaxen.learned_signals.reading import Reading
from flaxen.learned_signals.windows import Ids, Vectors, Windows, unit
from flaxen.router.request import Message, RoutedRequest
from flaxen.router.signals.found import Found


def vector(*numbers: float) -> Vectors:
    return unit(np.asarray(numbers, np.float32))


def asked(*turns: str) -> RoutedRequest:
    """A conversation of a user and an assistant in turn; the user has the first turn."""
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], text=text) for i, text in enumerate(turns))
    return RoutedRequest(api="chat", model="auto", messages=messages)


def find(
    finder: LearnedFinder,
    request: RoutedRequest,
    vectors: Mapping[str, Vectors | Sequence[Vectors]],
    heads: Mapping[str, Head] | None = None,
) -> Mapping[str, Found]:
    """What a finder finds where texts have these vectors, or one for each window, which is also a
    piece that says the same alone."""

    async def read(text: str) -> Reading:
        rows = np.atleast_2d(np.asarray(vectors[text]))
        windows = Windows(rows, tuple((number,) for number in range(len(rows))), rows)

        async def alone(pieces: Sequence[Ids]) -> Vectors:
            return rows[[number for [number] in pieces]]

        return Reading(windows, HeadStack(heads or {}), alone)

    return asyncio.run(_find(finder, request, read))


async def _find(finder: LearnedFinder, request: RoutedRequest, read: object) -> Mapping[str, Found]:
    return await finder.find(request, read)  # type: ignore[arg-type]


def head(task: str, labels: Sequence[str], **fields: object) -> Head:
    """A head in so many dimensions as labels: each label's number is ten times its own one."""
    size = len(labels)
    return Head(
        task=task,
        labels=tuple(labels),
        weights=10 * np.eye(size, dtype=np.float32),
        bias=np.zeros(size, np.float32),
        anchors=np.stack([unit(np.ones(size, np.float32))] * 4),
        **fields,  # type: ignore[arg-type]
    )
