"""One stream of tokens with weights in each number format, in turns, against bfloat16.

The model has Llama-3.2-1B's shape and random weights, which are made and kept in DIRECTORY. All
engines are loaded at the same time; in each round every one of them decodes once, so that what else
the machine does falls on all. What counts is the median of the rounds' ratios to bfloat16.

    python benchmarks/quantized.py [--directory DIR] [--rounds 5] [--formats int8,int4] [--write]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from report import report

import flaxen
from flaxen.hub.resolve import resolve
from flaxen.kernels.linear.weight import num_bytes
from flaxen.weights.huggingface.tokenizer import write_tokenizer

SEED, PLAIN, TOKENIZER_OF = 20261128, "none", "smollm2-135m"
LAYERS, WIDTH, MLP, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 2048, 8192, 32, 8, 64, 49_152
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
    "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
PROMPT = list(range(1, 33))
FEW, MANY = 4, 68  # tokens: the time of one is that of the others, divided by their number


def write_model(directory: Path) -> None:
    """Writes the model, if it is not there. Its tensors are drawn from one stream of numbers."""
    if (directory / "config.json").is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, WIDTH)}
    for layer in (f"model.layers.{i}" for i in range(LAYERS)):
        shapes |= {
            f"{layer}.self_attn.q_proj": (HEADS * HEAD_DIM, WIDTH),
            f"{layer}.self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            f"{layer}.self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            f"{layer}.self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
            f"{layer}.mlp.gate_proj": (MLP, WIDTH),
            f"{layer}.mlp.up_proj": (MLP, WIDTH),
            f"{layer}.mlp.down_proj": (WIDTH, MLP),
            f"{layer}.input_layernorm": (WIDTH,),
            f"{layer}.post_attention_layernorm": (WIDTH,),
        }
    shapes["model.norm"] = (WIDTH,)
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[f"{name}.weight"] = {
            "dtype": "BF16", "shape": shape, "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = np.ones(shape, np.float32)
            if len(shape) > 1:
                values = rng.standard_normal(shape, np.float32) * np.float32(0.02)
            file.write(values.astype(ml_dtypes.bfloat16).tobytes())
    fields = write_tokenizer(directory, resolve(TOKENIZER_OF))
    (directory / "config.json").write_text(json.dumps({**CONFIG, **fields}))


def seconds_a_token(llm: Any) -> float:
    """The time of one token of one stream."""

    def run(num_tokens: int) -> float:
        params = flaxen.SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)
        start = time.perf_counter()
        llm.generate({"prompt_token_ids": PROMPT}, params)
        return time.perf_counter() - start

    few = run(FEW)
    return (run(MANY) - few) / (MANY - FEW)


def main() -> None:
    """Measures, prints a table, and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("/tmp/flaxen-1b"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", default="int8,int4,fp8,mxfp4")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    write_model(args.directory)
    names = [PLAIN, *args.formats.split(",")]
    engines = {
        name: flaxen.LLM(
            args.directory, quantization=name, dtype="bfloat16", max_model_len=256, max_num_seqs=1
        )
        for name in names
    }  # fmt: skip
    for llm in engines.values():
        llm.warm_up()
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(args.rounds):
        for name in names[:: 1 if round_ % 2 == 0 else -1]:
            times[name].append(seconds_a_token(engines[name]))
    print("| weights | MB | tokens/s | times bfloat16 |\n| --- | --- | --- | --- |")
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        ratios = [plain / own for plain, own in zip(times[PLAIN], times[name], strict=True)]
        figures[name] = {
            "weight_mb": num_bytes(engines[name].params) / 1e6,
            "tok_s": 1 / statistics.median(times[name]),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        label = "bfloat16" if name == PLAIN else name
        print("| {} | {weight_mb:.0f} | {tok_s:.1f} | {ratio:.2f} |".format(label, **figures[name]))
    report("quantized", figures, write=args.write)


if __name__ == "__main__":
    main()
