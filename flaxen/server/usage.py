"""Counts the tokens of one HTTP request, for its answer and for the log. Knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flaxen.protocol import TokenEvent


@dataclass(kw_only=True)
class Usage:
    """Counts the tokens of one HTTP request as events arrive."""

    num_prompt: int
    num_output: int = 0
    num_cached: int = 0
    has_prediction: bool = False
    num_predicted_right: int = 0
    num_predicted_wrong: int = 0
    weights_version: int | None = None  # the oldest of the sequences that ended; None: none did

    def count(self, event: TokenEvent) -> None:
        """Adds an event's tokens."""
        self.num_output += len(event.token_ids)
        # The other sequences of a prompt reuse the first one's pages, which does not count as
        # cached.
        if event.finish is not None and event.index == 0:
            self.num_cached += event.finish.num_cached_tokens
        if event.finish is not None:
            self.num_predicted_right += event.finish.num_predicted_right
            self.num_predicted_wrong += event.finish.num_predicted_wrong
            version = event.finish.weights_version
            oldest = self.weights_version
            self.weights_version = version if oldest is None else min(version, oldest)

    def json(self) -> dict[str, Any]:
        """OpenAI's `usage`. Of a prediction it counts the tokens that were proposed as drafts, as
        accepted if they were right and as rejected if not; it does not count the others.
        """
        predicted = {
            "accepted_prediction_tokens": self.num_predicted_right,
            "rejected_prediction_tokens": self.num_predicted_wrong,
        }
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_output,
            "total_tokens": self.num_prompt + self.num_output,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
            **({"completion_tokens_details": predicted} if self.has_prediction else {}),
        }
