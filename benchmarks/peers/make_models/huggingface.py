"""Writes a Hugging Face directory in bfloat16 from a GGUF file of a Llama.

Usage: huggingface.py FILE.gguf DIRECTORY. Runs in transformers' environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Dequantizes in float32, then rounds."""
    source, target = Path(sys.argv[1]), sys.argv[2]
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    dequantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    config = dequantized.config
    del config.quantization_config  # with it, transformers refuses to save
    config.rms_norm_eps = float(
        f"{config.rms_norm_eps:.3g}"
    )  # the file's float32 is 9.99999974e-06
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(dequantized.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main()
