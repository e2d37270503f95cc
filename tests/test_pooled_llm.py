"""LLM.embed, .classify and .score = transformers' own classes, to 1e-4, alone and in batches; what
can't be done is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxen import LLM
from flaxen.llm import PoolingParams
from tests.models import encoders

torch = pytest.importorskip("torch")
TEXTS = ["the sky is blue", "a", "the deep sea is not red and the fish is blue " * 3, "fish"]
IDS = [[5, 6, 7], list(range(4, 17)) * 4, [9]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    found = {}
    for name, case in encoders.CASES.items():
        if name in ("bert", "xlm-roberta", "distilbert"):
            model = encoders.make(case)
            found[name] = encoders.save(model, tmp_path_factory.mktemp("encoder")), model
    for name, case in encoders.CLASSIFIERS.items():
        model = encoders.make(case)
        found[f"{name} classifier"] = encoders.save(model, tmp_path_factory.mktemp("head")), model
    return found


def served(directory: Path, backend: str = "cpu", **options: Any) -> LLM:
    return LLM(directory, dtype="float32", backend=backend, **{"compile_sizes": (512,)} | options)


def hidden_states(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()  # type: ignore[no-any-return]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


@pytest.mark.parametrize(
    ("name", "backend"), [("bert", "cpu"), ("xlm-roberta", "reference"), ("distilbert", "cpu")]
)
def test_embeddings_are_transformers(
    name: str, backend: str, made: dict[str, tuple[Path, Any]]
) -> None:
    directory, model = made[name]
    llm = served(directory, backend)
    outputs = llm.embed([*TEXTS, *IDS])
    for output, given in zip(outputs, [*TEXTS, *IDS], strict=True):
        ids = llm.tokenizer.encode(given) if isinstance(given, str) else given
        assert output.prompt_token_ids == tuple(ids)
        expected = unit(hidden_states(model, ids).mean(axis=0))
        np.testing.assert_allclose(output.outputs.embedding, expected, rtol=0, atol=1e-4)
    for output, given in zip(outputs, [*TEXTS, *IDS], strict=True):  # alone
        again = llm.embed(given)[0].outputs.embedding
        if backend == "cpu":
            assert again == output.outputs.embedding  # to the bit
        np.testing.assert_allclose(again, output.outputs.embedding, rtol=0, atol=1e-5)


def test_options_of_an_embedding(made: dict[str, tuple[Path, Any]]) -> None:
    directory, model = made["bert"]
    llm = served(directory)
    states = hidden_states(model, llm.tokenizer.encode("the sky"))
    cut, plain = (
        llm.embed("the sky", pooling_params=PoolingParams(**options))[0].outputs.embedding
        for options in ({"dimensions": 7}, {"normalize": False})
    )
    np.testing.assert_allclose(cut, unit(states.mean(axis=0)[:7]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(plain, states.mean(axis=0), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="dimensions is 49, and the model's embeddings have 48"):
        llm.embed("a", pooling_params=PoolingParams(dimensions=49))
    with pytest.raises(ValueError, match="dimensions must be at least 1, got 0"):
        PoolingParams(dimensions=0)
    with pytest.raises(ValueError, match="the model has no prompt 'query': it has none"):
        llm.embed("a", pooling_params=PoolingParams(prompt_name="query"))
    with pytest.raises(ValueError, match="use_activation and normalize mean the same"):
        llm.embed("a", pooling_params=PoolingParams(use_activation=True, normalize=False))


def test_long_prompts_are_refused_or_cut_as_asked(made: dict[str, tuple[Path, Any]]) -> None:
    directory, model = made["bert"]
    llm = served(directory)
    long = "a b c " * 40
    assert llm.info.max_model_len == 70
    with pytest.raises(ValueError, match="the prompt has 122 tokens, and the model takes 70"):
        llm.embed(["a", long])
    assert not llm.engine.has_work
    for length, most in ((-1, 70), (9, 9)):
        [output] = llm.embed(long, pooling_params=PoolingParams(truncate_prompt_tokens=length))
        ids = [2, *llm.tokenizer.encode(long)[1 : most - 1], 3]  # its special tokens stay
        assert output.prompt_token_ids == tuple(ids)
        expected = unit(hidden_states(model, ids).mean(axis=0))
        np.testing.assert_allclose(output.outputs.embedding, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="truncate_prompt_tokens is 71, and the model takes 70"):
        llm.embed(long, pooling_params=PoolingParams(truncate_prompt_tokens=71))
    with pytest.raises(ValueError, match="at least 1, or -1 for the model's length, got -2"):
        PoolingParams(truncate_prompt_tokens=-2)
    [whole] = llm.embed([list(range(4, 17)) * 5 + [4] * 5])  # as long as the model takes
    assert len(whole.prompt_token_ids) == 70


def test_sentence_transformers_files_decide(tmp_path: Path) -> None:
    model = encoders.make(encoders.CASES["bert"])
    directory = encoders.as_sentence_transformer(
        encoders.save(model, tmp_path),
        "cls_token",
        normalize=False,
        sentence_bert_config={"max_seq_length": 12},
        config_sentence_transformers={
            "prompts": {"query": "the sea ", "document": ""},
            "default_prompt_name": "query",
        },
    )
    llm = served(directory)
    assert llm.info.max_model_len == 12
    for name, text in ((None, "the sea fish"), ("query", "the sea fish"), ("document", "fish")):
        [output] = llm.embed("fish", pooling_params=PoolingParams(prompt_name=name))
        expected = hidden_states(model, llm.tokenizer.encode(text))[0]
        np.testing.assert_allclose(output.outputs.embedding, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="a prompt can't be put before token ids"):
        llm.embed([[5, 6]], pooling_params=PoolingParams(prompt_name="query"))


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_classification_is_transformers(name: str, made: dict[str, tuple[Path, Any]]) -> None:
    directory, model = made[f"{name} classifier"]
    llm = served(directory)
    outputs = llm.classify([*TEXTS, *IDS])
    raw = llm.classify(TEXTS, pooling_params=PoolingParams(use_activation=False))
    for i, output in enumerate(outputs):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([output.prompt_token_ids])).logits[0]
        expected = torch.sigmoid(logits) if len(logits) == 1 else torch.softmax(logits, -1)
        np.testing.assert_allclose(output.outputs.probs, expected, rtol=0, atol=1e-4)
        assert output.outputs.num_classes == len(logits)
        if i < len(raw):
            np.testing.assert_allclose(raw[i].outputs.probs, logits, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="has a classification head: use /classify"):
        llm.embed("a")
    with pytest.raises(ValueError, match="dimensions and normalize are of embeddings"):
        llm.classify("a", pooling_params=PoolingParams(dimensions=3))


def test_a_cross_encoder_reads_both_texts(made: dict[str, tuple[Path, Any]]) -> None:
    directory, model = made["bert classifier"]
    llm = served(directory)
    pairs = [("the sky", "the sky is blue"), ("the sky", "fish"), ("the sky", "red " * 100)]
    cut = PoolingParams(truncate_prompt_tokens=30)
    outputs = llm.score("the sky", [second for _, second in pairs], pooling_params=cut)
    for output, (first, second) in zip(outputs, pairs, strict=True):
        one, other = (llm.tokenizer.encode(text, False) for text in (first, second))
        other = other[: 30 - 3 - len(one)]
        ids, types = [2, *one, 3, *other, 3], [0] * (len(one) + 2) + [1] * (len(other) + 1)
        assert [token % 40 for token in output.prompt_token_ids] == ids
        with torch.no_grad():
            logit = model(
                input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])
            ).logits[0, 0]
        expected = float(torch.sigmoid(logit))
        assert output.outputs.score == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="2 texts came with 3"):
        llm.score(["a", "b"], ["a", "b", "c"])


def test_scores_of_embeddings_are_cosines(made: dict[str, tuple[Path, Any]]) -> None:
    llm = served(made["distilbert"][0])
    found = llm.score("the sky", ["the sky", "fish"])
    vectors = [np.asarray(each.outputs.embedding) for each in llm.embed(["the sky", "fish"])]
    assert found[0].outputs.score == pytest.approx(1, abs=1e-6)
    assert found[1].outputs.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    with pytest.raises(ValueError, match="gives embeddings: use /v1/embeddings"):
        llm.classify("a")


def test_an_encoder_generates_nothing(made: dict[str, tuple[Path, Any]]) -> None:
    llm = served(made["bert"][0])
    with pytest.raises(ValueError, match="this model generates no text"):
        llm.generate("a")
    with pytest.raises(ValueError, match=r"--runner generate was asked for, and .* no text"):
        served(made["bert"][0], runner="generate")
    with pytest.raises(ValueError, match=r"max_num_batched_tokens \(64\) must be at least"):
        served(made["bert"][0], max_num_batched_tokens=64, compile_sizes=())
    with pytest.raises(ValueError, match="the model is an encoder, which has no KV cache"):
        served(made["bert"][0], kv_cache_bytes=2**20)
