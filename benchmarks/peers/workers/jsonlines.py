"""The worker's end of the protocol of `peers.worker`: one JSON object a line.

Standard library only, as it runs in every engine's own environment. Deliberately does not know
engines, nor how times become figures.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

# (prompts' token ids, tokens to generate for each) -> (seconds, tokens generated)
Generate = Callable[[list[list[int]], list[int]], tuple[float, int]]
# (model, the engine's arguments) -> how it generates, and the versions that do it
Load = Callable[[str, dict[str, Any]], tuple[Generate, dict[str, str]]]
# a step's rows of token ids, for each step -> (seconds, each step's loss)
Train = Callable[[list[list[list[int]]]], tuple[float, list[float]]]
LoadTrainer = Callable[[str, dict[str, Any]], tuple[Train, dict[str, str]]]

_Handle = Callable[[dict[str, Any]], dict[str, Any]]


class UnsupportedError(Exception):
    """The engine can't run these requests at all; it may run others."""


def answer(load: Load) -> None:
    """Loads the model named in argv, then answers requests until stdin ends.

    argv: the model's path, and a JSON object of the engine's own arguments.
    """

    def load_handle(model: str, args: dict[str, Any]) -> tuple[_Handle, dict[str, str]]:
        generate, versions = load(model, args)

        def handle(request: dict[str, Any]) -> dict[str, Any]:
            wall_s, num_tokens = generate(request["prompts"], request["num_outputs"])
            return {"wall_s": wall_s, "num_tokens": num_tokens}

        return handle, versions

    _answer(load_handle)


def answer_training(load: LoadTrainer) -> None:
    """`answer` for training: a request is steps, which continue from the previous ones."""

    def load_handle(model: str, args: dict[str, Any]) -> tuple[_Handle, dict[str, str]]:
        train, versions = load(model, args)

        def handle(request: dict[str, Any]) -> dict[str, Any]:
            wall_s, losses = train(request["steps"])
            return {"wall_s": wall_s, "losses": losses}

        return handle, versions

    _answer(load_handle)


def _answer(load: Callable[[str, dict[str, Any]], tuple[_Handle, dict[str, str]]]) -> None:
    # Engines, and the libraries below them, print to standard output as they like.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    handle, versions = load(sys.argv[1], json.loads(sys.argv[2]))
    reply(ready=versions)
    for line in sys.stdin:
        try:
            answered = handle(json.loads(line))
        except UnsupportedError as error:
            reply(unsupported=str(error))
        except Exception as error:  # engines raise exceptions of their own
            traceback.print_exc()
            reply(error=f"{type(error).__name__}: {error}")
        else:
            reply(**answered)
