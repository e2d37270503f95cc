"""GGUF files of experts and states: other converters' forms, quantized, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.families import find_family
from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.params import is_spec, plain_param
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.file_tensors import file_tensors, rows_of_params
from flaxen.weights.gguf.metadata import model_metadata
from tests.weights.files import Kind, random_blocks, write_gguf

FLOAT32 = jnp.dtype("float32")
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 2.0**-20,
    "rope_theta": 1e4,
    "sliding_window": None,
    "num_experts_per_tok": 2,
}
OWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {
        "num_experts": 3,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "norm_topk_prob": False,
    },
    "glm4_moe": {
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "n_group": 2,
        "topk_group": 1,
        "use_qk_norm": True,
    },
    "gpt_oss": {
        "num_local_experts": 3,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
        "rope_scaling": {"rope_type": "default"},
    },
    "llama4_text": {
        "num_hidden_layers": 4,
        "num_local_experts": 3,
        "intermediate_size_mlp": 96,
        "layer_types": [*["chunked_attention"] * 3, "full_attention"],
        "no_rope_layers": [1, 1, 1, 0],
        "moe_layers": [1, 3],
        "attention_chunk_size": 8192,
        "use_qk_norm": True,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    "lfm2": {
        "layer_types": ["conv", "full_attention"],
        "norm_eps": 2.0**-20,
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 3,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "norm_topk_prob": True,
    },
}


class Tiny:
    """A model of random weights, and the metadata and tensors of its GGUF file."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.family = find_family(name)
        self.config = self.family.config_from_hf({**SIZES, **OWN[name], **changes})
        rng = np.random.default_rng(0)
        specs = decoder(self.config).param_specs
        self.params = jax.tree.map(
            lambda spec: rng.standard_normal(spec.shape).astype(np.float32), specs, is_leaf=is_spec
        )
        rows = rows_of_params(specs, self.params)
        stored = file_tensors(self.family.gguf_rules, specs, self.config.sizes, rows)
        self.metadata = model_metadata(self.family, self.config, stored)
        self.tensors = {each.name: each.read(0, each.shape[0]) for each in stored}

    def check(self, path: Path) -> None:
        """Whether a file of the tensors is the model."""
        checkpoint = open_checkpoint(write_gguf(path, self.metadata, self.tensors))
        assert checkpoint.config == self.config
        found = checkpoint.load_params(FLOAT32)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, self.params)

    def take(self, ending: str) -> dict[str, np.ndarray]:
        """Takes the layers' tensors with this ending out, by what stands before it."""
        found = [name for name in self.tensors if name.endswith("." + ending)]
        assert found
        return {name.removesuffix(ending): self.tensors.pop(name) for name in found}


def test_experts_of_which_each_has_tensors(tmp_path: Path) -> None:
    tiny = Tiny("mixtral")
    for part in ("gate", "up", "down"):
        for layer, stack in tiny.take(f"ffn_{part}_exps.weight").items():
            for number, weight in enumerate(stack):
                tiny.tensors[f"{layer}ffn_{part}.{number}.weight"] = weight
    tiny.check(tmp_path / "m.gguf")


def test_gates_and_ups_in_one_tensor(tmp_path: Path) -> None:
    tiny = Tiny("glm4_moe")
    ups = tiny.take("ffn_up_exps.weight")
    for layer, gate in tiny.take("ffn_gate_exps.weight").items():
        fused = np.concatenate([gate, ups[layer]], axis=1)
        tiny.tensors[f"{layer}ffn_gate_up_exps.weight"] = fused
    tiny.check(tmp_path / "m.gguf")


def test_a_gate_of_shared_experts_without_its_first_axis(tmp_path: Path) -> None:
    tiny = Tiny("qwen2_moe")
    for layer, gate in tiny.take("ffn_gate_inp_shexp.weight").items():
        tiny.tensors[f"{layer}ffn_gate_inp_shexp.weight"] = gate[0]
    tiny.check(tmp_path / "m.gguf")


def test_a_delta_net_with_one_tensor_for_its_inputs(tmp_path: Path) -> None:
    tiny = Tiny("qwen3_next")
    gates = tiny.take("attn_gate.weight")
    for layer, qkv in tiny.take("attn_qkv.weight").items():
        parts = [*np.split(qkv, [16, 32]), gates[layer]]
        heads = [part.reshape(2, -1, 64) for part in parts]
        tiny.tensors[f"{layer}ssm_in.weight"] = np.concatenate(heads, axis=1).reshape(-1, 64)
    tiny.check(tmp_path / "m.gguf")


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    tiny = Tiny("glm4_moe")
    tiny.metadata |= {"glm4moe.block_count": 3, "glm4moe.nextn_predict_layers": 1}
    tiny.tensors["blk.2.nextn.eh_proj.weight"] = np.zeros((64, 128), np.float32)
    tiny.tensors["blk.2.attn_norm.weight"] = np.zeros(64, np.float32)
    tiny.check(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("kind", "format_"),
    [(Kind.Q8_0, "int8"), (Kind.Q4_1, "int4"), (Kind.MXFP4, "float4")],
    ids=lambda each: getattr(each, "name", each),
)
def test_quantized_stacks_are_kept(tmp_path: Path, kind: Kind, format_: str) -> None:
    """MXFP4 as in the published files of GPT-OSS. The values are those of the gguf package."""
    tiny, name = Tiny("gpt_oss"), "blk.1.ffn_up_exps.weight"
    names = [each for each in tiny.tensors if each.endswith("_exps.weight")]
    for each in names:
        flat = tiny.tensors[each].reshape(-1, 64)
        tiny.tensors[each] = random_blocks(kind, flat.shape).reshape(3, flat.shape[0] // 3, -1)
    path = write_gguf(tmp_path / "m.gguf", tiny.metadata, tiny.tensors, dict.fromkeys(names, kind))
    checkpoint = open_checkpoint(path)
    params = checkpoint.load_params(FLOAT32, backend=Backend.GPU, quantization="auto")
    stack = params["layers"][1]["w_experts_up"]
    assert (stack.format, stack.shape) == (format_, (3, 64, 64))
    expected = gguf.dequantize(tiny.tensors[name], kind).swapaxes(1, 2)
    spec = checkpoint.model.param_specs["layers"][1]["w_experts_up"]
    np.testing.assert_array_equal(np.asarray(plain_param(spec, stack)), expected)


@pytest.mark.parametrize("kind", [Kind.Q6_K, Kind.IQ4_XS], ids=lambda each: each.name)
def test_other_stacks_are_dequantized(tmp_path: Path, kind: Kind) -> None:
    tiny, name = Tiny("mixtral", intermediate_size=256), "blk.0.ffn_down_exps.weight"
    tiny.tensors[name] = random_blocks(kind, (3 * 64, 256)).reshape(3, 64, -1)
    path = write_gguf(tmp_path / "m.gguf", tiny.metadata, tiny.tensors, {name: kind})
    params = open_checkpoint(path).load_params(FLOAT32, quantization="auto")
    found = np.asarray(params["layers"][0]["w_experts_down"]).swapaxes(1, 2)
    values = gguf.dequantize(tiny.tensors[name], kind)
    np.testing.assert_array_equal(found, values.astype(jnp.bfloat16).astype(np.float32))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("glm4_moe", {"glm4moe.expert_gating_func": 1}, "expert_gating_func = 1 is not supported: 2"),
    ("mixtral", {"llama.expert_gating_func": 2}, "llama.expert_gating_func = 2 is not supported"),
    ("qwen2_moe", {"qwen2moe.expert_weights_norm": True}, "expert_weights_norm = True is not"),
    ("qwen2_moe", {"qwen2moe.attention.sliding_window": 8}, "does not say on which layers"),
    ("llama4_text", {"llama4.attention.sliding_window": 0}, "sliding_window = 0 is not supported"),
    ("gpt_oss", {"gpt-oss.rope.freq_base_swa": 5e5}, "rope.freq_base_swa = 500000.0 is not"),
    ("lfm2", {"lfm2.attention.head_count_kv": [0, 0]}, r"head_count_kv = \[0, 0\] is not"),
    ("qwen3_next", {"qwen3next.ssm.inner_size": 64}, "inner_size = 64 is not supported: .* 32"),
    ("qwen3_next", {"qwen3next.expert_count": 0}, "expert_count must be a number above 0, got 0"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    tiny = Tiny(name)
    path = write_gguf(tmp_path / "m.gguf", {**tiny.metadata, **changes}, tiny.tensors)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.recurrent_layers", True, "recurrent_layers = True is not supported: only a"),
        ("ssm.state_size", 0, "qwen3next.ssm.state_size must be a number above 0, got 0"),
    ],
)
def test_metadata_of_states_is_checked(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    tiny = Tiny("qwen3_next")
    metadata = {**tiny.metadata, f"qwen3next.{key}": value}
    with pytest.raises(ValueError, match=message):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", metadata, tiny.tensors))
