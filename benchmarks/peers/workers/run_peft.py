"""A worker: transformers and PEFT in a plain PyTorch loop, which is what their Trainer wraps.

Arguments: dtype of the base (PEFT keeps the adapters in float32), threads, rank, alpha,
learning_rate.
"""

from __future__ import annotations

import time
from typing import Any

from .jsonlines import Train, answer_training
from .lora_start import TARGETS, draw_a


def load(model: str, args: dict[str, Any]) -> tuple[Train, dict[str, str]]:
    """Loads the base and puts adapters into it."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(args["threads"])
    base = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, args["dtype"]), attn_implementation="sdpa"
    )
    config = peft.LoraConfig(
        r=args["rank"],
        lora_alpha=args["alpha"],
        lora_dropout=0.0,
        target_modules=list(TARGETS.values()),
        task_type="CAUSAL_LM",
    )
    network = peft.get_peft_model(base, config).train()
    for i, layer in enumerate(base.model.layers):
        for ours, theirs in TARGETS.items():
            a = layer.get_submodule(theirs).lora_A["default"].weight
            drawn = draw_a(i, ours, a.shape[1], a.shape[0])
            a.data.copy_(torch.from_numpy(drawn.T.copy()))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args["learning_rate"], weight_decay=0.0)

    def train(steps: list[list[list[int]]]) -> tuple[float, list[float]]:
        losses = []
        start_s = time.perf_counter()
        for rows in steps:
            tokens = torch.tensor(rows)
            loss = network(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return time.perf_counter() - start_s, losses

    versions = {
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    return train, versions


if __name__ == "__main__":
    answer_training(load)
