"""GGUF files of latent attention, in both forms that converters have written, hold what a directory
does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFWriter

from flaxen.families import find_family
from flaxen.models.decoder import decoder
from flaxen.models.params import is_spec
from flaxen.weights.checkpoint import open_checkpoint

N, NOPE, ROPE, VALUE, RANK, EXPERTS = 3, 10, 6, 12, 14, 8
FIELDS: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": N,
    "kv_lora_rank": RANK,
    "q_lora_rank": 20,
    "qk_rope_head_dim": ROPE,
    "qk_nope_head_dim": NOPE,
    "v_head_dim": VALUE,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 2.0**-20,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.5,
        "mscale_all_dim": 0.5,
    },
}
FAMILY = find_family("DeepseekV3ForCausalLM")
CONFIG = FAMILY.config_from_hf(FIELDS)
KEYS: dict[str, Any] = {
    "vocab_size": 97,
    "embedding_length": 36,
    "feed_forward_length": 50,
    "block_count": 2,
    "context_length": 256,
    "attention.head_count": N,
    "attention.layer_norm_rms_epsilon": 2.0**-20,
    "attention.q_lora_rank": 20,
    "attention.kv_lora_rank": RANK,
    "rope.dimension_count": ROPE,
    "rope.freq_base": 10000.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_log_multiplier": 0.05,
    "leading_dense_block_count": 1,
    "expert_feed_forward_length": 20,
    "expert_count": EXPERTS,
    "expert_used_count": 3,
    "expert_shared_count": 2,
    "expert_weights_scale": 2.5,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
}
FORMS: dict[str, dict[str, Any]] = {
    "one tensor": {
        "attention.head_count_kv": N,
        "attention.key_length": NOPE + ROPE,
        "attention.value_length": VALUE,
    },
    "two tensors": {
        "attention.head_count_kv": 1,
        "attention.key_length": RANK + ROPE,
        "attention.value_length": RANK,
        "attention.key_length_mla": NOPE + ROPE,
        "attention.value_length_mla": VALUE,
    },
}


def make_params() -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda spec: rng.standard_normal(spec.shape).astype(np.float32),
        decoder(CONFIG).param_specs,
        is_leaf=is_spec,
    )


def write(path: Path, params: Any, form: str, **changes: Any) -> Path:
    """A file as the converter makes it."""
    writer = GGUFWriter(path, "deepseek2")
    for key, value in {**KEYS, **FORMS[form], **changes}.items():
        kinds = {bool: "bool", int: "uint32", float: "float32", str: "string"}
        if value is not None:
            getattr(writer, "add_" + kinds[type(value)])(f"deepseek2.{key}", value)

    def add(name: str, values: np.ndarray) -> None:
        writer.add_tensor(name, np.ascontiguousarray(values))

    for name in ("embed", "unembed", "final_norm"):
        names = {"embed": "token_embd", "unembed": "output", "final_norm": "output_norm"}
        add(names[name] + ".weight", params[name])
    for layer, own in enumerate(params["layers"]):
        own = dict(own)
        if form == "one tensor":
            rows = np.concatenate([own.pop("w_uk"), own.pop("w_uv").swapaxes(1, 2)], axis=1)
            add(f"blk.{layer}.attn_kv_b.weight", rows.reshape(-1, RANK))
        for name, values in own.items():
            suffix = ".bias" if name == "b_router_selection" else ".weight"
            turned = values.swapaxes(-1, -2) if values.ndim > 1 else values
            add(f"blk.{layer}.{_NAMES[name]}{suffix}", turned)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_NAMES = {
    "attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "wq_a": "attn_q_a", "wq_b": "attn_q_b",
    "q_a_norm": "attn_q_a_norm", "wkv_a": "attn_kv_a_mqa", "kv_a_norm": "attn_kv_a_norm",
    "w_uk": "attn_k_b", "w_uv": "attn_v_b", "wo": "attn_output", "w_gate": "ffn_gate",
    "w_up": "ffn_up", "w_down": "ffn_down", "w_router": "ffn_gate_inp",
    "b_router_selection": "exp_probs_b", "w_experts_gate": "ffn_gate_exps",
    "w_experts_up": "ffn_up_exps", "w_experts_down": "ffn_down_exps",
    "w_shared_gate": "ffn_gate_shexp", "w_shared_up": "ffn_up_shexp",
    "w_shared_down": "ffn_down_shexp",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_the_model(tmp_path: Path, form: str) -> None:
    params = make_params()
    checkpoint = open_checkpoint(write(tmp_path / "tiny.gguf", params, form))
    assert checkpoint.family == FAMILY
    assert checkpoint.config == CONFIG
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_params(jnp.dtype("float32")), params
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_gating_func": 3}, "expert_gating_func = 3 is not supported: 1 .softmax. and 2"),
        (
            {"rope.scaling.type": "linear"},
            "rope.scaling.type = 'linear' is not supported: none and",
        ),
        ({"attention.kv_lora_rank": None}, "attention.kv_lora_rank must be a number above 0, got"),
        (
            {"attention.indexer.top_k": 4},
            "attention.indexer.top_k = 4 is not supported, and leaving",
        ),
    ],
)
def test_what_the_files_can_say_and_we_do_not_know_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "tiny.gguf", make_params(), "two tensors", **changes)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(path)
