"""What we export and save, transformers and peft load and compute the same; and the other way.

Only where they are installed: they are no dependency.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.hub.resolve import resolve
from flaxen.models.model import Params
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.file_tensors import rows_of_params, with_adapter
from flaxen.weights.huggingface.export import export_huggingface, write_directory
from tests.extras import extra
from tests.models.golden import CASES, GOLDENS, expected, logits_of
from tests.weights.adapters.made import random_adapter

torch: Any = extra("torch")
transformers: Any = extra("transformers")

TOLERANCE = 2e-4
FLOAT32 = jnp.dtype("float32")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.fixture
def peft() -> Any:
    return pytest.importorskip("peft")


def their_model(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def their_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(tokens.tolist())[None]).logits[0].numpy()
    return logits


def assert_close(checkpoint: Checkpoint, params: Params, theirs: Any, tokens: np.ndarray) -> None:
    ours = logits_of(checkpoint.model, params, tokens)
    assert ours.std() > 1  # a tolerance means nothing on logits near 0
    np.testing.assert_allclose(ours, their_logits(theirs, tokens), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_an_exported_model_computes_the_same(tmp_path: Path, case: str) -> None:
    source = open_checkpoint(GOLDENS / case)
    params = source.load_params(FLOAT32)
    adapter = random_adapter(source.model)
    rows = with_adapter(rows_of_params(source.model.param_specs, params), adapter)
    write_directory(tmp_path / "out", source.family, source.config, rows, dtype="float32")
    tokens, _ = expected(case)
    assert_close(source, merge_adapter(params, adapter), their_model(tmp_path / "out"), tokens)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("case", ["llama_default", "mistral_window", "qwen2_biases", "qwen3_tied"])
def test_peft_computes_the_same_with_our_adapters(
    tmp_path: Path, peft: Any, case: str, use_rslora: bool
) -> None:
    source = open_checkpoint(GOLDENS / case)
    params = source.load_params(FLOAT32)
    adapter = random_adapter(source.model, use_rslora=use_rslora)
    save_adapter(tmp_path / "adapter", adapter, case)
    theirs = peft.PeftModel.from_pretrained(their_model(GOLDENS / case), tmp_path / "adapter")
    tokens, _ = expected(case)
    assert_close(source, merge_adapter(params, adapter), theirs, tokens)


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], "all-linear", ["mlp.down_proj", "self_attn.o_proj"]]
)
def test_we_compute_the_same_with_adapters_of_peft(tmp_path: Path, peft: Any, targets: Any) -> None:
    source = open_checkpoint(GOLDENS / "qwen3_tied")
    params = source.load_params(FLOAT32)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    theirs = peft.get_peft_model(their_model(GOLDENS / "qwen3_tied"), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter", source.model)
    assert adapter.config.scale == 2
    tokens, base = expected("qwen3_tied")
    merged = merge_adapter(params, adapter)
    assert np.abs(logits_of(source.model, merged, tokens) - base).max() > 0.1
    assert_close(source, merged, theirs, tokens)


@pytest.mark.parametrize(
    "named",
    [
        {"target_modules": r".*\.(q_proj|v_proj)"},
        {"target_modules": r"^(?!.*(down|up)_proj).*_proj$"},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0.*"},
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 8, r"layers\.1\.self_attn\.v_proj": 2},
            "alpha_pattern": {"v_proj": 3, "layers.0.mlp.down_proj": 32},
        },
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"^model.layers.0.*": 8},
         "use_rslora": True},
    ],
)  # fmt: skip
def test_modules_are_named_as_peft_names_them(
    tmp_path: Path, peft: Any, named: dict[str, Any]
) -> None:
    source = open_checkpoint(GOLDENS / "qwen3_tied")
    params = source.load_params(FLOAT32)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, task_type="CAUSAL_LM", init_lora_weights=False, **named
    )
    theirs = peft.get_peft_model(their_model(GOLDENS / "qwen3_tied"), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter", source.model)
    tokens, _ = expected("qwen3_tied")
    assert_close(source, merge_adapter(params, adapter), theirs, tokens)


@pytest.mark.slow
def test_smollm2_exported_from_its_gguf_file(tmp_path: Path) -> None:
    path = resolve("smollm2-135m")
    source = open_checkpoint(path)
    params = source.load_params(FLOAT32)
    export_huggingface(tmp_path / "out", source.family, source.config, params, tokenizer_of=path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = source.make_tokenizer()
    text = "Hello, wörld 123!\n<|im_start|>user\nfrom  two   spaces🙂<|im_end|>"
    assert theirs(text).input_ids == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text), False)
    assert theirs.eos_token_id == ours.eos_token_ids[0]
    assert theirs.chat_template == ours.chat_template
    tokens = np.asarray(ours.encode("The capital of France is Paris, and that of"))
    found = logits_of(source.model, params, tokens)
    expected_logits = their_logits(their_model(tmp_path / "out"), tokens)
    jax.tree.map(np.testing.assert_array_equal, found.argmax(-1), expected_logits.argmax(-1))
    np.testing.assert_allclose(found, expected_logits, atol=TOLERANCE, rtol=TOLERANCE)
