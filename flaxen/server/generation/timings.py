"""How long a prompt and its answer took, as llama.cpp tells it."""

from __future__ import annotations

from typing import Any

from flaxen.server.request_log import Timing
from flaxen.server.usage import Usage


def timings_json(usage: Usage, timing: Timing) -> dict[str, Any]:
    """The `timings` of an answer, so far.

    Args:
      usage: the tokens. What was found in the cache is known, and told, at the end.
      timing: when they came. The first one comes of the prompt's last step: the times of the others
          are counted from there. A prompt's time includes its wait for a turn.
    """
    prompt_ms = 1e3 * ((timing.first_s or timing.start_s) - timing.start_s)
    predicted_ms = 1e3 * max(0.0, timing.last_s - (timing.first_s or timing.last_s))
    num_prompt = usage.num_prompt - usage.num_cached
    return {
        "cache_n": usage.num_cached,
        "prompt_n": num_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _share(prompt_ms, num_prompt),
        "prompt_per_second": 1e3 * _share(num_prompt, prompt_ms),
        "predicted_n": usage.num_output,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _share(predicted_ms, timing.num_after_first),
        "predicted_per_second": 1e3 * _share(timing.num_after_first, predicted_ms),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
