"""A family of fused tensors, which is in no list of ours: its rules give transformers' logits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from flaxen.families import FAMILIES, Family
from flaxen.families.rules import Split, TensorRule, with_rules
from flaxen.families.tensors import HF
from flaxen.models.decoder import decoder
from flaxen.weights.form import Form
from flaxen.weights.huggingface.export import export_huggingface
from flaxen.weights.params import load_params
from flaxen.weights.safetensors import read_tensors
from flaxen.weights.sources import find_sources
from tests.extras import extra
from tests.models.golden import logits_of

PHI3: Family = dataclasses.replace(
    FAMILIES["llama"],
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    hf_rules=with_rules(
        HF,
        TensorRule(
            params=("wq", "wk", "wv"),
            tensors=("model.layers.{layer}.self_attn.qkv_proj.weight",),
            steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads")),),
            transposed=True,
        ),
        TensorRule(
            params=("w_gate", "w_up"),
            tensors=("model.layers.{layer}.mlp.gate_up_proj.weight",),
            steps=(Split((1, 1)),),
            transposed=True,
        ),
    ),
)


def test_fused_tensors_are_read_and_written(tmp_path: Path) -> None:
    torch: Any = extra("torch")
    transformers: Any = extra("transformers")
    torch.manual_seed(0)
    theirs = transformers.Phi3ForCausalLM(
        transformers.Phi3Config(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            initializer_range=0.5, pad_token_id=0, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "in")
    fields = json.loads((tmp_path / "in" / "config.json").read_text())
    config = PHI3.config_from_hf(fields)
    model = decoder(config)
    found = find_sources(
        model.param_specs,
        PHI3.hf_rules,
        read_tensors(tmp_path / "in"),
        config.sizes,
        ignored=lambda _: False,
    )
    form = Form(dtype=jnp.dtype("float32"))
    params = load_params(model.param_specs, found.params, form, round_to=None, on_progress=None)
    tokens = np.random.default_rng(0).integers(0, 128, 20)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)[None]).logits[0].numpy()
    assert expected.std() > 1  # a tolerance means nothing on logits near 0
    np.testing.assert_allclose(logits_of(model, params, tokens), expected, atol=2e-4, rtol=2e-4)

    export_huggingface(tmp_path / "out", PHI3, config, params)
    given = load_file(tmp_path / "in" / "model.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == given.keys()
    for name, values in given.items():
        np.testing.assert_array_equal(written[name], values, err_msg=name)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", pad_token_id=0
    ).eval()
    with torch.no_grad():
        logits = again(torch.tensor(tokens)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
