"""DeepSeek V2 and V3 = transformers' own classes, from a directory and back to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxen.cli.parity.compare import compare
from flaxen.families import find_family
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.attention_impls import causal
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface
from tests.extras import extra

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "kv_lora_rank": 14,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 10,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "mscale": 0.8, "mscale_all_dim": 0.9,
    "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
GROUPS = {"n_group": 4, "topk_group": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": (
        "DeepseekV2ForCausalLM",
        {**GROUPS, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.7,
         "rope_parameters": YARN},
    ),
    "v2_lite": ("DeepseekV2ForCausalLM", {"q_lora_rank": None, "first_k_dense_replace": 0}),
    "v3": (
        "DeepseekV3ForCausalLM",
        {**GROUPS, "routed_scaling_factor": 2.5, "rope_parameters": YARN, "attention_bias": True},
    ),
    "v3_plain": (
        "DeepseekV3ForCausalLM",
        {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "rope_interleave": False,
         "norm_topk_prob": False},
    ),
    "glm_lite": (
        "Glm4MoeLiteForCausalLM",
        {"mlp_layer_types": ["sparse", "dense"], "rope_parameters": YARN, "n_group": 1,
         "topk_group": 1},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A checkpoint of transformers' class, tokens, and their logits."""
    torch: Any = extra("torch")
    transformers: Any = extra("transformers")
    name, changes = CASES[request.param]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SIZES, **changes})).float().eval()
    for key, each in [*model.named_parameters(), *model.named_buffers()]:
        if each.dim() > 1:
            each.data = 1.5 * torch.randn(each.shape) / each.shape[-1] ** 0.5
        elif "inv_freq" not in key:
            each.data = each.data + 0.2 * torch.randn(each.shape)
    tokens = np.random.default_rng(0).integers(3, 97, (2, 70))
    with torch.no_grad():
        logits = model(torch.tensor(tokens)).logits.numpy()
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    return directory, tokens, logits


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_logits_are_transformers(
    made: tuple[Path, np.ndarray, np.ndarray], backend: Backend
) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    directory, tokens, expected = made
    checkpoint = open_checkpoint(directory)
    model = checkpoint.model.on(backend)
    params = checkpoint.load_params(jnp.dtype("float32"), backend=backend)
    positions = jnp.broadcast_to(jnp.arange(70), (2, 70))

    @jax.jit
    def logits(params: Any, ids: jax.Array) -> jax.Array:
        cache = (None,) * len(model.cache_specs)
        hidden, _ = model.forward(params, ids, positions, causal(None, backend), cache)
        return model.unembed(params, hidden)

    assert expected.std() > 0.5  # a tolerance means nothing on logits near 0
    np.testing.assert_allclose(
        logits(params, jnp.asarray(tokens, jnp.int32)), expected, rtol=2e-4, atol=2e-4
    )


def test_every_way_has_the_same_bits(made: tuple[Path, np.ndarray, np.ndarray]) -> None:
    found = compare({"model": str(made[0]), "dtype": "bfloat16"}, [made[1][0].tolist()], 6, None)
    assert [(each.num_differing, each.max_difference) for each in found] == [(0, 0)] * len(found)


V3 = find_family("DeepseekV3ForCausalLM")
LITE = find_family("Glm4MoeLiteForCausalLM")
V2 = find_family("DeepseekV2ForCausalLM")
FIELDS = {**SIZES, **GROUPS, "norm_topk_prob": True, "routed_scaling_factor": 2.5}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (V3, {"num_key_value_heads": 1}, "num_key_value_heads = 1 is not supported: latent"),
        (
            V3,
            {"scoring_func": "softmax"},
            "scoring_func = 'softmax' is not supported in DeepSeek V3",
        ),
        (V3, {"kv_lora_rank": None}, "kv_lora_rank"),
        (LITE, {"mlp_layer_types": ["dense"]}, "mlp_layer_types must list dense or sparse for"),
        (
            V2,
            {"scoring_func": "sigmoid"},
            "scoring_func = 'sigmoid' is not supported in DeepSeek V2",
        ),
        (
            V2,
            {"topk_method": "noaux_tc"},
            "topk_method = 'noaux_tc' is not supported in DeepSeek V2",
        ),
        (V2, {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
    ],
)
def test_what_would_change_the_result_is_refused(
    family: Any, changes: dict[str, Any], message: str
) -> None:
    given = FIELDS if family is not V2 else {**FIELDS, "norm_topk_prob": False}
    family.config_from_hf(given)
    with pytest.raises(ValueError, match=message):
        family.config_from_hf({**given, **changes})


def test_a_directory_comes_back_to_the_bit(
    made: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    source = open_checkpoint(made[0])
    params = source.load_params(jnp.dtype("float32"))
    export_huggingface(tmp_path / "out", source.family, source.config, params)
    theirs, ours = (load_file(each / "model.safetensors") for each in (made[0], tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    for tensor, values in ours.items():
        np.testing.assert_array_equal(values, theirs[tensor], err_msg=tensor)
    assert open_checkpoint(tmp_path / "out").config == source.config
