"""A worker: vLLM's offline `LLM`, in this process. Arguments are vLLM's engine arguments."""

from __future__ import annotations

import time
from typing import Any

from .jsonlines import Generate, answer


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Builds the engine."""
    import torch
    import vllm

    llm = vllm.LLM(model=model, **args)

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        sampling = [
            vllm.SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for n in num_outputs
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        start_s = time.perf_counter()
        outputs = llm.generate(inputs, sampling, use_tqdm=False)
        wall_s = time.perf_counter() - start_s
        return wall_s, sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate, {"vllm": vllm.__version__, "torch": torch.__version__}


if __name__ == "__main__":  # vLLM may import this file again in processes of its own
    answer(load)
