"""A worker: transformers' `generate` on static batches, left-padded.

Arguments: dtype, threads, and batch_size: requests of unequal output lengths run sorted by them in
batches of that many, the usual way to bound the padding.
"""

from __future__ import annotations

import time
from typing import Any

from .jsonlines import Generate, answer

PAD_ID = 0  # masked, so any id will do


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Loads the model."""
    import torch
    import transformers

    torch.set_num_threads(args["threads"])
    dtype = getattr(torch, args["dtype"])
    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    network.generation_config.eos_token_id = None  # end-of-sequence is ignored

    def run(prompts: list[list[int]], num_output: int) -> None:
        width = max(map(len, prompts))
        tokens = torch.full((len(prompts), width), PAD_ID)
        mask = torch.zeros_like(tokens)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        with torch.inference_mode():
            outputs = network.generate(
                input_ids=tokens,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=num_output,
                pad_token_id=PAD_ID,
            )
        assert outputs.shape[1] == width + num_output, outputs.shape

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        size = len(prompts) if len(set(num_outputs)) == 1 else args["batch_size"]
        order = sorted(range(len(prompts)), key=num_outputs.__getitem__)
        start_s = time.perf_counter()
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            run([prompts[i] for i in batch], max(num_outputs[i] for i in batch))
        # Tokens beyond those asked for, which a static batch also computes, do not count.
        return time.perf_counter() - start_s, sum(num_outputs)

    return generate, {"transformers": transformers.__version__, "torch": torch.__version__}


if __name__ == "__main__":
    answer(load)
