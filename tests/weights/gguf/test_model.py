"""GGUF metadata to DecoderConfig: honoured or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxen.models.rope import rope_frequencies
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.features import Features, features
from tests.weights.files import golden_metadata, golden_tensors, write_gguf


def config_of(
    directory: Path, case: str, changes: dict[str, Any], **tensors: np.ndarray
) -> Features:
    """The configuration of a golden as GGUF, with metadata changed; None drops a key."""
    metadata = {**golden_metadata(case), **changes}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    path = write_gguf(directory / "m.gguf", metadata, {**golden_tensors(case), **tensors})
    return features(open_checkpoint(path).config)


def test_defaults(tmp_path: Path) -> None:
    changes = {
        "llama.rope.freq_base": None, "llama.vocab_size": None, "llama.rope.dimension_count": 8,
        "llama.expert_count": 0, "llama.rope.scaling.finetuned": False,
        "llama.attention.causal": True,
    }  # fmt: skip
    config = config_of(tmp_path, "llama_linear", changes)
    assert config.rope == RopeConfig(theta=10_000)
    assert (config.vocab_size, config.head_dim) == (128, 8)


def test_linear_rope_in_both_spellings(tmp_path: Path) -> None:
    expected = RopeConfig(kind="linear", theta=10_000, factor=4)
    new = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert config_of(tmp_path, "llama_linear", new).rope == expected
    assert config_of(tmp_path, "llama_linear", {"llama.rope.scale_linear": 4.0}).rope == expected


def test_yarn_rope(tmp_path: Path) -> None:
    changes = {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32,
        "llama.rope.scaling.yarn_beta_fast": 2.0, "llama.rope.scaling.yarn_beta_slow": 0.5,
    }  # fmt: skip
    assert config_of(tmp_path, "llama_yarn", changes).rope == RopeConfig(
        kind="yarn", theta=1000, factor=4, original_max_position=32, beta_fast=2, beta_slow=0.5
    )


def llama3_divisors(rope: RopeConfig, head_dim: int) -> np.ndarray:
    plain, _ = rope_frequencies(RopeConfig(theta=rope.theta), head_dim)
    scaled, _ = rope_frequencies(rope, head_dim)
    divisors: np.ndarray = (plain / scaled).astype(np.float32)
    return divisors


@pytest.mark.parametrize(("factor", "high"), [(8.0, 4.0), (32.0, 4.0), (16.0, 1.0)])
def test_llama3_rope_is_known_by_its_table(tmp_path: Path, factor: float, high: float) -> None:
    rope = RopeConfig(kind="llama3", theta=5e5, factor=factor, original_max_position=8192,
                      high_freq_factor=high)  # fmt: skip
    divisors = llama3_divisors(rope, 16)
    changes = {"llama.rope.freq_base": 5e5}
    tables = {"rope_freqs.weight": divisors}
    assert config_of(tmp_path, "llama_yarn", changes, **tables).rope == rope
    ones = {"rope_freqs.weight": np.ones(8, np.float32)}
    assert config_of(tmp_path, "llama_yarn", changes, **ones).rope == RopeConfig(theta=5e5)


def test_another_table_of_frequencies_is_refused(tmp_path: Path) -> None:
    changes = {"llama.rope.freq_base": 5e5}
    rope = RopeConfig(kind="llama3", theta=5e5, factor=8, original_max_position=4096)
    for divisors in (llama3_divisors(rope, 16), np.full(4, 8, np.float32)):
        with pytest.raises(
            ValueError, match=r"rope_freqs.weight does not hold .* for 8 times 8192"
        ):
            config_of(tmp_path, "llama_yarn", changes, **{"rope_freqs.weight": divisors})


def test_a_llama_with_a_window_is_a_mistral(tmp_path: Path) -> None:
    config = config_of(tmp_path, "mistral_window", {"llama.attention.sliding_window": 8})
    assert config.windows == (8, 8)
    config = config_of(tmp_path, "mistral_window", {"llama.attention.sliding_window": 0})
    assert config.windows == (None, None)


def test_a_list_with_one_value_for_all_layers(tmp_path: Path) -> None:
    config = config_of(tmp_path, "llama_linear", {"llama.attention.head_count_kv": [2, 2]})
    assert config.num_kv_heads == 2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"llama.attention.head_count_kv": [2, 1]}, "head_count_kv differs from layer to layer"),
    ({"llama.embedding_length": None}, "llama.embedding_length must be a number above 0, got None"),
    ({"llama.feed_forward_length": 0}, "llama.feed_forward_length must be a number above 0, got 0"),
    ({"llama.block_count": True}, "llama.block_count must be a number above 0, got True"),
    ({"llama.block_count": 2.5}, "llama.block_count must be a whole number above 0, got 2.5"),
    (
        {"llama.embedding_length": np.inf},
        "llama.embedding_length must be a number above 0, got inf",
    ),
    ({"llama.attention.key_length": "8"}, "key_length must be a whole number above 0, got '8'"),
    ({"llama.rope.dimension_count": 0}, "dimension_count must be a whole number above 0, got 0"),
    ({"llama.context_length": None}, "llama.context_length must be a number above 0"),
    ({"llama.attention.head_count": "4"}, "head_count must be a number above 0, got '4'"),
    ({"llama.attention.layer_norm_rms_epsilon": None}, "rms_epsilon must be a number above 0"),
    ({"llama.embedding_length": 32.0}, "hidden_size must be a whole number above 0, got 32.0"),
    ({"llama.attention.scale": 0.5}, "llama.attention.scale = 0.5 is not supported"),
    ({"llama.logit_scale": 2.0}, "llama.logit_scale = 2.0 is not supported"),
    ({"llama.expert_count": 8}, "the configuration has no num_experts_per_tok"),
    ({"llama.expert_group_count": 4}, "llama.expert_group_count = 4 is not supported"),
    ({"llama.expert_weights_scale": 2.5}, "llama.expert_weights_scale = 2.5 is not supported"),
    ({"llama.nextn_predict_layers": 1}, "llama.nextn_predict_layers = 1 is not supported"),
    ({"llama.rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor = 0.5 is not supported"),
    ({"llama.attention.causal": False}, "llama.attention.causal = False"),
    ({"llama.attention.value_length": 4}, "attention.value_length = 4.*the head size, 8"),
    ({"llama.rope.dimension_count": 4}, "rope.dimension_count = 4.*the head size, 8"),
    ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type = 'longrope'"),
    ({"llama.rope.scaling.attn_factor": 1.5}, "rope.scaling.attn_factor = 1.5"),
    ({"llama.rope.scaling.yarn_log_multiplier": 0.1}, "yarn_log_multiplier = 0.1"),
    ({"split.count": 3}, "one of 3 parts: merge them"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config_of(tmp_path, "llama_linear", {})
    with pytest.raises(ValueError, match=rf"m\.gguf: .*{message}"):
        config_of(tmp_path, "llama_linear", changes)


def test_a_scaling_type_beside_a_table_is_refused(tmp_path: Path) -> None:
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    table = {"rope_freqs.weight": np.ones(4, np.float32)}
    with pytest.raises(ValueError, match=r"rope.scaling.type = 'linear' together with the tensor"):
        config_of(tmp_path, "llama_linear", changes, **table)


def test_a_window_of_unknown_layers_is_refused(tmp_path: Path) -> None:
    changes = {"qwen2.attention.sliding_window": 8}
    with pytest.raises(ValueError, match=r"sliding_window = 8 .*does not say on which layers"):
        config_of(tmp_path, "qwen2_windows", changes)


@pytest.mark.parametrize("pattern", [6, [True, False]])
def test_a_pattern_of_windows_is_refused_where_no_layer_slides(
    tmp_path: Path, pattern: int | list[bool]
) -> None:
    changes = {"qwen2.attention.sliding_window_pattern": pattern}
    with pytest.raises(ValueError, match=r"sliding_window_pattern = .* only a list with a truth"):
        config_of(tmp_path, "qwen2_windows", changes)


def test_unknown_and_missing_architectures(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "bloom"}, {})
    with pytest.raises(ValueError, match=r"m\.gguf: GGUF files of .* 'bloom' .*Known are: .*llama"):
        open_checkpoint(path)
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    with pytest.raises(ValueError, match=r"no general.architecture \(got None\)"):
        open_checkpoint(path)
