"""Which files of a repository are the model."""

from __future__ import annotations

import pytest

from flaxen.hub.selection import (
    RepoFile,
    quantization_of,
    select_files,
)
from flaxen.hub.sizes import format_size

TRANSFORMERS = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
]  # fmt: skip
OTHERS = [
    "pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors", "modeling.py",
    "model.pt", "README.md", "original/model.safetensors", "tokenizer.model",
    "flax_model.msgpack", "onnx/model.onnx", "sub/config.json",
]  # fmt: skip
SHARDED = [
    "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
]  # fmt: skip
GGUFS = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf", "imatrix_m.gguf"]


def chosen(names: list[str], selector: str | None = None) -> list[str]:
    files = [RepoFile(name, 1_500_000_000) for name in names]
    return sorted(file.name for file in select_files("org/m", files, selector).files)


def test_safetensors_with_what_belongs_to_them() -> None:
    single = [*TRANSFORMERS, "model.safetensors"]
    assert chosen(single + OTHERS + GGUFS) == sorted(single)
    assert chosen(TRANSFORMERS + SHARDED + OTHERS) == sorted(TRANSFORMERS + SHARDED)


def test_of_shards_and_a_single_file_the_shards() -> None:
    names = TRANSFORMERS + SHARDED
    assert chosen([*names, "model.safetensors"]) == sorted(names)


@pytest.mark.parametrize(
    ("names", "selector", "name"),
    [
        (GGUFS, None, "m-Q4_K_M.gguf"),
        (GGUFS, "Q8_0", "m-Q8_0.gguf"),
        (GGUFS, "q2_k", "m-Q2_K.gguf"),
        (GGUFS, "m-Q2_K.gguf", "m-Q2_K.gguf"),
        (["m.f16.gguf", "m.q8_0.gguf"], None, "m.q8_0.gguf"),
        (["m-IQ3_M.gguf", "m-F16.gguf"], None, "m-F16.gguf"),
        (["m-Q4_0_4_4.gguf", "m-Q5_K_S.gguf"], None, "m-Q5_K_S.gguf"),
        (["m.gguf"], None, "m.gguf"),
        (["BF16/m-BF16.gguf", "m-UD-Q4_K_XL.gguf"], "BF16", "BF16/m-BF16.gguf"),
        (["BF16/m-BF16.gguf", "m-UD-Q4_K_XL.gguf"], "m-BF16.gguf", "BF16/m-BF16.gguf"),
        (["BF16/m-BF16.gguf", "m-UD-Q4_K_XL.gguf"], "Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["BF16/m-BF16.gguf", "m-UD-Q4_K_XL.gguf"], "UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ([*TRANSFORMERS, "model.safetensors", "m-Q8_0.gguf"], "Q8_0", "m-Q8_0.gguf"),
    ],
)
def test_a_gguf_file(names: list[str], selector: str | None, name: str) -> None:
    assert chosen(names, selector) == [name]


def test_what_else_could_have_been_chosen() -> None:
    files = [RepoFile(name, 1) for name in GGUFS]
    selection = select_files("org/m", files, None)
    assert selection.quantization == "Q4_K_M"
    assert [file.name for file in selection.others] == ["m-Q2_K.gguf", "m-Q8_0.gguf"]
    assert select_files("org/m", files, "Q8_0").others == ()


@pytest.mark.parametrize(
    ("names", "selector", "message"),
    [
        (
            GGUFS,
            "Q5_K_M",
            r"org/m has no Q5_K_M\. There are Q2_K \(1\.5 GB\), Q4_K_M .*, Q8_0 \(1\.5 GB\)$",
        ),
        (["m-Q8_0.gguf"], "Q4_0", r"org/m has no Q4_0\. There is Q8_0 \(1\.5 GB\)"),
        (
            ["a-Q8_0.gguf", "b-Q8_0.gguf"],
            "Q8_0",
            r"several files that are Q8_0\. There are a-Q8_0\.g",
        ),
        (
            ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf", "m-Q8_0.gguf"],
            "F16",
            r"one of 2 parts of a GGUF file.*-split --merge`\. There are F16 \(2 parts\), Q8_0",
        ),
        (
            [*TRANSFORMERS, "model.safetensors"],
            "Q4_K_M",
            r"safetensors and no GGUF file.*leave :Q4_K_M out\. --quantization int8 or int4",
        ),
        (["config.json", "model.safetensors"], None, r"in safetensors, but no tokenizer\.json"),
        (
            ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"],
            None,
            r"in safetensors, but no model\.safetensors\.index\.json: flaxen needs it",
        ),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            None,
            r"is a LoRA adapter, no model",
        ),
        (
            ["config.json", "pytorch_model.bin"],
            None,
            r"in pytorch_model\.bin alone: pickle files can",
        ),
        (["README.md"], None, r"org/m has neither safetensors in transformers' layout nor GGUF"),
        (GGUFS, "mmproj-m-F16.gguf", r"org/m has no mmproj-m-F16\.gguf"),
        (GGUFS, "../m.bin", r"org/m has no \.\./m\.bin"),
    ],
)
def test_no_such_model(names: list[str], selector: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(names, selector)


def test_the_quantization_is_in_the_name() -> None:
    found = {
        "Llama-3.2-1B-Instruct-Q4_K_M.gguf": "Q4_K_M", "qwen3-0.6b-fp16.gguf": "FP16",
        "SmolLM2-135M-Instruct.Q4_1.gguf": "Q4_1", "m-IQ2_XXS.gguf": "IQ2_XXS",
        "m-UD-Q4_K_XL.gguf": "UD-Q4_K_XL", "m-bf16-00001-of-00003.gguf": "BF16",
        "m-MXFP4_MOE.gguf": "MXFP4_MOE", "m-TQ1_0.gguf": "TQ1_0", "model.gguf": None,
        "Q4_0.gguf": "Q4_0", "q3.gguf": "Q3", "prefixQ4_0.gguf": None,
    }  # fmt: skip
    assert {name: quantization_of(name) for name in found} == found


def test_sizes_are_written_as_the_hub_writes_them() -> None:
    sizes = {
        0: "0 B", 999: "999 B", 1000: "1.0 kB", 269_060_552: "269 MB", 99_940_000: "99.9 MB",
        999_600_000: "1.0 GB", 1_503_300_328: "1.5 GB", 141_107_497_872: "141 GB",
    }  # fmt: skip
    assert {size: format_size(size) for size in sizes} == sizes
