"""A real server with adapters: mixed in a batch, loaded and unloaded while it serves.

Imports nothing of flaxen: the adapters are written as peft writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from safetensors.numpy import save_file

from tests.e2e.serving import IDS, MODEL, ONCE, Server, serve

pytestmark = pytest.mark.slow

NUM_LAYERS, D, KV, F = 30, 576, 192, 1536  # SmolLM2-135M's
MODULES = {
    "self_attn.q_proj": (D, D), "self_attn.k_proj": (D, KV), "self_attn.v_proj": (D, KV),
    "self_attn.o_proj": (D, D), "mlp.gate_proj": (D, F), "mlp.up_proj": (D, F),
    "mlp.down_proj": (F, D),
}  # fmt: skip


def write_adapter(directory: Path, seed: int, rank: int = 2, **config: Any) -> None:
    """Writes an adapter that changes the model's output, in PEFT's format."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(NUM_LAYERS):
        for module, (num_in, num_out) in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            for part, shape in (("A", (rank, num_in)), ("B", (num_out, rank))):
                values = rng.standard_normal(shape) * 0.3 / np.sqrt(shape[1])
                tensors[f"{prefix}.lora_{part}.weight"] = values.astype(np.float32)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8,
        "target_modules": [module.partition(".")[2] for module in MODULES], "bias": "none",
        **config,
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def lora_server(compile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("start", "below/one", "below/two", "below/three")):
        write_adapter(directory / name, seed)
    write_adapter(directory / "below" / "large", 9, rank=8)
    write_adapter(directory / "below" / "dora", 9, use_dora=True)
    options = (
        "--enable-lora", "--max-loras", "2", "--max-lora-rank", "4",
        "--lora-modules", f"start={directory / 'start'}", "--allow-runtime-lora-updating",
        "--lora-dir", str(directory / "below"), "--max-model-len", "256", "--max-num-seqs", "8",
    )  # fmt: skip
    with serve(compile_cache, directory / "log", *options) as server:
        yield server


def change(server: Server, verb: str, **body: Any) -> Any:
    return server.http.post(f"/v1/{verb}_lora_adapter", json=body)


def load(server: Server, name: str, path: str, **more: Any) -> Any:
    return change(server, "load", lora_name=name, lora_path=path, **more)


def said(server: Server, model: str) -> list[int]:
    body = {"model": model, "max_tokens": 12, "ignore_eos": True}
    (choice,) = server.complete(ONCE, **IDS, **body).choices
    return list(choice.token_ids)


def test_mixed_and_alone(lora_server: Server) -> None:
    for name in ("one", "two", "three"):
        answer = load(lora_server, name, name)
        assert answer.status_code == 200, answer.text
        assert answer.text == f"Success: LoRA adapter '{name}' added successfully."
    listed = {model.id: model for model in lora_server.openai.models.list().data}
    assert list(listed) == [MODEL, "start", "one", "two", "three"]
    assert listed["one"].parent == MODEL

    models = [MODEL, "start", "one", f"{MODEL}:two", "three"]
    alone = [said(lora_server, model) for model in models]
    assert len({tuple(tokens) for tokens in alone}) == len(models)
    with ThreadPoolExecutor(len(models) * 3) as pool:  # more adapters than slots
        mixed = list(pool.map(lambda model: said(lora_server, model), models * 3))
    assert mixed == alone * 3
    metrics = lora_server.wait_until_idle()
    assert metrics["lora_loads_total"] >= 4

    # What runs with an adapter ends with it, and its name can have other weights at once.
    stream = lora_server.complete(
        ONCE, model="one", stream=True, max_tokens=12, ignore_eos=True, **IDS
    )
    chunks = iter(stream)
    tokens = list(next(chunks).choices[0].token_ids)
    assert change(lora_server, "unload", lora_name="one").status_code == 200
    assert load(lora_server, "one", "three").status_code == 200
    assert said(lora_server, "one") == alone[4]
    tokens += [i for chunk in chunks for choice in chunk.choices for i in choice.token_ids]
    assert tokens == alone[2]
    answer = load(lora_server, "one", "one", load_inplace=True)
    assert answer.status_code == 200
    assert said(lora_server, "one") == alone[2]

    assert change(lora_server, "unload", lora_name="one").status_code == 200
    with pytest.raises(openai.NotFoundError, match="'one' is not served here"):
        said(lora_server, "one")
    assert change(lora_server, "unload", lora_name="one").status_code == 404
    assert said(lora_server, MODEL) == alone[0]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("missing", 404, "there is no adapter at 'missing'"),
        ("../start", 400, "must lead to a directory below"),
        ("/etc", 400, "must lead to a directory below"),
        ("large", 400, "8"),
        ("dora", 400, "dora"),
        (".", 400, "must lead to a directory below"),
    ],
)
def test_what_is_refused_disturbs_nobody(
    lora_server: Server, path: str, status: int, message: str
) -> None:
    before = said(lora_server, "start")
    answer = load(lora_server, "bad", path)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert "bad" not in [model.id for model in lora_server.openai.models.list().data]
    assert said(lora_server, "start") == before
