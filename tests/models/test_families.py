"""Ours = Hugging Face, for every family and feature; and each feature is needed for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.model import Params
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.features import with_features
from tests.models.golden import CASES, GOLDENS, expected, logits_of

TOLERANCE = 2e-4


def load(case: str) -> tuple[DecoderConfig, Params]:
    checkpoint = open_checkpoint(GOLDENS / case)
    return checkpoint.config, checkpoint.load_params(jnp.dtype("float32"))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str) -> None:
    config, params = load(case)
    tokens, logits = expected(case)
    assert logits.std() > 1  # a tolerance means nothing on logits near 0
    np.testing.assert_allclose(
        logits_of(decoder(config), params, tokens), logits, atol=TOLERANCE, rtol=TOLERANCE
    )


def yarn(**changes: Any) -> RopeConfig:
    base = RopeConfig(
        kind="yarn", theta=1000, factor=4, original_max_position=32, beta_fast=2, beta_slow=0.5
    )
    return replace(base, **changes)


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("llama_default", {"rope": RopeConfig(theta=9_000)}),
    ("llama_default", {"norm_eps": 1e-6}),
    ("llama_linear", {"rope": RopeConfig()}),
    ("llama_llama3", {"rope": RopeConfig(theta=1000)}),
    ("llama_llama3", {"rope": RopeConfig(kind="linear", theta=1000, factor=4)}),
    ("llama_yarn", {"rope": RopeConfig(theta=1000)}),
    ("llama_yarn", {"rope": yarn(attention_factor=1.0)}),
    ("llama_yarn", {"rope": yarn(beta_fast=32.0)}),
    ("llama_yarn", {"rope": yarn(beta_slow=0.2)}),
    ("llama_yarn", {"rope": yarn(truncate=False)}),
    ("llama_tied_biases", {"biases": ("wk", "wv", "wo", "w_gate", "w_up", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wv", "wo", "w_gate", "w_up", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wk", "wo", "w_gate", "w_up", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wk", "wv", "w_gate", "w_up", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wk", "wv", "wo", "w_up", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wk", "wv", "wo", "w_gate", "w_down")}),
    ("llama_tied_biases", {"biases": ("wq", "wk", "wv", "wo", "w_gate", "w_up")}),
    ("mistral_window", {"windows": ()}),
    ("mistral_window", {"windows": (9, 9)}),
    ("mistral_window", {"windows": (7, 7)}),
    ("mistral_window", {"windows": (8, None)}),
    ("qwen2_biases", {"biases": ()}),
    ("qwen2_windows", {"windows": ()}),
    ("qwen2_windows", {"windows": (8, 8, 8)}),
    ("qwen2_windows", {"windows": (None, None, 8)}),
    ("qwen3_tied", {"qk_norm": False}),
    ("qwen3_biases_windows", {"windows": (8, 8)}),
    ("qwen3_biases_windows", {"biases": ("wq", "wk", "wv")}),
    ("seed_oss_biases", {"biases": ()}),
    ("seed_oss_out_biases", {"biases": ("w_gate", "w_up", "w_down")}),
]


@pytest.mark.parametrize(("case", "change"), CHANGES)
def test_leaving_a_feature_out_changes_the_logits(case: str, change: dict[str, Any]) -> None:
    config, params = load(case)
    changed = decoder(with_features(config, **change))
    layers = zip(params["layers"], changed.param_specs["layers"], strict=True)
    kept = tuple({name: layer[name] for name in spec} for layer, spec in layers)
    tokens, logits = expected(case)
    difference = np.abs(logits_of(changed, {**params, "layers": kept}, tokens) - logits).max()
    assert difference > 50 * TOLERANCE
