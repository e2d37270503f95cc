"""The part that measures transformers with torch.compile on the same shape, for comparison.

Runs without flaxen's libraries, with the PyTorch of the machine; without one, or with one that sees
no GPU, it says so. Deliberately imports nothing of flaxen.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import Any

from .figures import rounded, say

_PROMPT_LEN, _NUM_OUTPUTS = 128, 64
_SHAPES = {
    "1b": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, and not compiled")
    args = parser.parse_args()
    missing = [each for each in ("torch", "transformers") if not importlib.util.find_spec(each)]
    if missing:
        say("left_out", f"not installed here: {', '.join(missing)}")
        return
    import torch

    if not args.tiny and not torch.cuda.is_available():
        say("left_out", f"PyTorch {torch.__version__} sees no GPU here")
        return
    measure(torch, "tiny" if args.tiny else args.shape, args.streams, is_tiny=args.tiny)


def measure(torch: Any, shape: str, num_streams: int, *, is_tiny: bool) -> None:
    """Says the seconds of a decode step: a whole answer less one of a single token."""
    import transformers

    device = "cpu" if is_tiny else "cuda"
    config = transformers.LlamaConfig(max_position_embeddings=8192, **_SHAPES[shape])
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    compiling: dict[str, Any] = {"disable_compile": True}
    if not is_tiny:  # decode alone is compiled then, as a CUDA graph: prompts of any length are not
        compiling = {"compile_config": transformers.CompileConfig(mode="reduce-overhead")}
    num_outputs = 4 if is_tiny else _NUM_OUTPUTS
    ids = torch.randint(3, config.vocab_size, (num_streams, _PROMPT_LEN), device=device)

    def seconds(num: int) -> float:
        start_s = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=num,
            max_new_tokens=num,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
            **compiling,
        )
        if not is_tiny:
            torch.cuda.synchronize()
        return time.perf_counter() - start_s

    say("versions", {"torch": torch.__version__, "transformers": transformers.__version__})
    start_s = time.perf_counter()
    seconds(num_outputs)  # compiles
    seconds(1)
    say("compile_s", round(time.perf_counter() - start_s, 1))
    step_s = (seconds(num_outputs) - seconds(1)) / (num_outputs - 1)
    found = {"tok_s": num_streams / step_s, "step_ms": 1000 * step_s, "is_compiled": not is_tiny}
    say(f"decode_{num_streams}", rounded(found))


if __name__ == "__main__":
    main()
