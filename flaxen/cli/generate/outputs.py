"""The outputs of `flaxen generate` as text and JSON, and what is said of those that are not whole.

Deliberately does not know the engine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxen.outputs import RequestOutput


def as_json(output: RequestOutput) -> str:
    """An output as one line of JSON."""
    completion = output.outputs[0]
    return json.dumps(
        {
            "prompt": output.prompt,
            "text": completion.text,
            "num_prompt_tokens": len(output.prompt_token_ids),
            "num_output_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
    )


def as_text(output: RequestOutput) -> str:
    """One of several outputs, under its prompt."""
    return f"=== {output.prompt}\n{output.outputs[0].text}\n"


def describe_cuts(outputs: Sequence[RequestOutput], max_model_len: int) -> str:
    """Says which outputs end at a limit rather than where the model ends them; empty for none."""
    limits = Counter(
        f"the context's {max_model_len} tokens (--max-model-len)"
        if len(output.prompt_token_ids) + len(output.outputs[0].token_ids) >= max_model_len
        else f"--max-tokens {len(output.outputs[0].token_ids)}"
        for output in outputs
        if output.outputs[0].finish_reason == "length"
    )
    if not limits:
        return ""
    if len(outputs) == 1:
        return f"[cut at {next(iter(limits))}]"
    counts = ", ".join(f"{count} at {limit}" for limit, count in limits.items())
    return f"[{sum(limits.values())} of {len(outputs)} are cut: {counts}]"


def check_outputs(outputs: Sequence[RequestOutput]) -> None:
    """Ends the command if prompts failed, once those that did not are printed.

    Raises:
      SystemExit: with how many failed, and why the first did.
    """
    errors = [output.outputs[0].error for output in outputs if output.outputs[0].error]
    if errors:
        raise SystemExit(
            f"error: {len(errors)} of {len(outputs)} prompts failed, first: {errors[0]}"
        )
