"""Writes OpenVINO's format of a Hugging Face directory.

Usage: openvino_model.py SOURCE TARGET bf16|int8. Runs in optimum's environment. bf16 keeps the
weights as they are; int8 has one scale for each output channel.
"""

from __future__ import annotations

import sys

import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoTokenizer


def main() -> None:
    """Converts the model, its tokenizer and its detokenizer."""
    source, target, number_format = sys.argv[1:]
    quantization = (
        {"quantization_config": OVWeightQuantizationConfig(bits=8)}
        if number_format == "int8"
        else {"load_in_8bit": False}
    )
    model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, **quantization)
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(target)
    forward, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    openvino.save_model(forward, f"{target}/openvino_tokenizer.xml")
    openvino.save_model(back, f"{target}/openvino_detokenizer.xml")


if __name__ == "__main__":
    main()
