"""The routes of embeddings, labels and scores, over tiny encoders: their shapes are OpenAI's and
vLLM's, and their numbers those of `LLM`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest

from flaxen.build import build
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine_args import EngineArgs
from flaxen.llm import LLM, PoolingParams
from flaxen.pooling_routes.routes import ROUTES
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.models import encoders
from tests.server.clients import get, openai_client, post
from tests.server.fakes import FakeEngine, byte_tokenizer

pytest.importorskip("torch")

HELLO = [{"role": "user", "content": "the sky"}, {"role": "user", "content": "is blue"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}fish"
    "{% endif %}"
)


class Served:
    """A model behind an application, and the same in Python."""

    def __init__(self, directory: Path) -> None:
        options: dict[str, Any] = {
            "max_num_batched_tokens": 128,
            "dtype": "float32",
            "backend": "reference",
            "compile_sizes": (128,),
        }
        self.llm = LLM(directory, **options)
        parts = build(EngineArgs(model=str(directory), served_model_name="it", **options))
        self.engine = AsyncEngine(parts.engine)
        tokenizer = parts.tokenizer.with_chat_template(TEMPLATE)
        self.app = create_app(self.engine, tokenizer, ServerConfig(), more_routes=ROUTES)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return post(self.app, path, body)

    def ok(self, path: str, **body: Any) -> Any:
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        return response.json()


def served(directory: Path) -> Iterator[Served]:
    found = Served(directory)
    yield found
    asyncio.run(found.engine.close())


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("embedder")
    yield from served(encoders.save(encoders.make(encoders.CASES["bert"]), directory))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("scorer")
    yield from served(encoders.save(encoders.make(encoders.CLASSIFIERS["bert"]), directory))


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("labeller")
    encoders.save(encoders.make(encoders.CLASSIFIERS["roberta"]), directory)
    names = {"0": "bad", "1": "fair", "2": "good"}
    encoders.change(directory / "config.json", id2label=names)
    yield from served(directory)


def test_embeddings_have_openais_shape_and_the_numbers_of_llm(embedder: Served) -> None:
    texts = ["the sky is blue", "fish"]
    answer = embedder.ok("/v1/embeddings", model="it", input=texts)
    assert answer["object"] == "list"
    assert answer["model"] == "it"
    assert answer["id"].startswith("embd-")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == 6 + 3
    expected = [each.outputs.embedding for each in embedder.llm.embed(texts)]
    for i, (data, vector) in enumerate(zip(answer["data"], expected, strict=True)):
        assert data == {"index": i, "object": "embedding", "embedding": vector}
    packed = embedder.ok("/v1/embeddings", input=texts, encoding_format="base64")["data"]
    for data, vector in zip(packed, expected, strict=True):
        numbers = np.frombuffer(base64.b64decode(data["embedding"]), "<f4")
        np.testing.assert_array_equal(numbers, np.asarray(vector, np.float32))


@pytest.mark.parametrize("order", ["little", "big", "native"])
def test_embeddings_as_bytes(order: str, embedder: Served) -> None:
    texts = ["the sky is blue", "fish"]
    expected = [each["embedding"] for each in embedder.ok("/v1/embeddings", input=texts)["data"]]
    for name, sign, tolerance in (("float32", "f4", 0), ("float16", "f2", 1e-3)):
        asked = {"input": texts, "embed_dtype": name, "endianness": order}
        dtype = {"little": "<", "big": ">", "native": "="}[order] + sign
        answer = embedder.post("/v1/embeddings", encoding_format="bytes", **asked)
        told = json.loads(answer.headers["metadata"])
        assert (told["model"], told["usage"]["prompt_tokens"]) == ("it", 9)
        packed = embedder.ok("/v1/embeddings", encoding_format="base64", **asked)["data"]
        for item, numbers, text in zip(told["data"], expected, packed, strict=True):
            assert item["shape"] == [48]
            part = answer.content[item["start"] : item["end"]]
            np.testing.assert_allclose(np.frombuffer(part, dtype), numbers, atol=tolerance)
            assert base64.b64decode(text["embedding"]) == part
        bare = embedder.post("/v1/embeddings", encoding_format="bytes_only", **asked)
        assert (bare.content, "metadata" in bare.headers) == (answer.content, False)


@pytest.mark.parametrize("name", ["bfloat16", "fp8_e4m3", "fp8_e5m2"])
def test_embeddings_in_short_formats(name: str, embedder: Served) -> None:
    dtype = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}.get(name, name)
    [data] = embedder.ok(
        "/v1/embeddings", input="fish", encoding_format="base64", embed_dtype=name
    )["data"]
    found = np.frombuffer(base64.b64decode(data["embedding"]), getattr(ml_dtypes, dtype))
    [whole] = embedder.ok("/v1/embeddings", input="fish")["data"]
    np.testing.assert_array_equal(found, np.asarray(whole["embedding"], np.float32).astype(dtype))


def test_a_chat_is_embedded_as_its_template_writes_it(embedder: Served) -> None:
    for asked, text in (
        ({}, "the sky is blue "),
        ({"add_generation_prompt": True}, "the sky is blue fish"),
        ({"continue_final_message": True, "add_special_tokens": True}, "the sky is blue"),
        ({"truncate_prompt_tokens": 2}, "the sky"),
    ):
        special = "add_special_tokens" in asked
        found = embedder.ok("/v1/embeddings", messages=HELLO, **asked)
        same = embedder.ok("/v1/embeddings", input=text, add_special_tokens=special)
        assert found["data"] == same["data"]
        assert found["usage"] == same["usage"]


def test_cohere_has_the_same_embeddings(embedder: Served) -> None:
    texts = ["the sky is blue", "fish"]
    types = ["float", "base64", "binary", "ubinary"]
    answer = embedder.ok("/v2/embed", model="it", texts=texts, embedding_types=types)
    same = embedder.ok("/v1/embeddings", input=texts)
    expected = np.asarray([each["embedding"] for each in same["data"]], np.float32)
    assert answer["texts"] == texts
    assert answer["meta"]["billed_units"]["input_tokens"] == same["usage"]["prompt_tokens"]
    found = answer["embeddings"]
    np.testing.assert_array_equal(np.asarray(found["float"], np.float32), expected)
    for i, row in enumerate(expected):
        assert base64.b64decode(found["base64"][i]) == row.tobytes()
        bits = "".join(f"{byte:08b}" for byte in found["ubinary"][i])
        assert bits == "".join("1" if number >= 0 else "0" for number in row)
        assert [byte + 128 for byte in found["binary"][i]] == found["ubinary"][i]
    assert list(embedder.ok("/v2/embed", texts=texts)["embeddings"]) == ["float"]


def test_cohere_cuts_texts_at_either_end(embedder: Served) -> None:
    def embedded(**asked: Any) -> Any:
        return embedder.ok("/v2/embed", texts=["the deep sea"], **asked)["embeddings"]["float"]

    for truncate, side in (("END", "right"), ("START", "left"), (None, "right")):
        same = embedder.ok(
            "/v1/embeddings",
            input="the deep sea",
            truncate_prompt_tokens=4,
            truncation_side=side,
        )
        asked = {} if truncate is None else {"truncate": truncate}
        assert embedded(max_tokens=4, **asked) == [same["data"][0]["embedding"]]
    whole = embedder.ok("/v2/embed", texts=["a b " * 50])
    assert whole["meta"]["billed_units"]["input_tokens"] == 70


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": ["a"], "images": ["b"]}, "images"),
        ({"texts": ["a"], "input_type": "query"}, "input_type"),
        ({"texts": ["a"], "output_dimension": 0}, "output_dimension"),
        ({"texts": ["a"], "output_dimension": 49}, "output_dimension"),
        ({"texts": ["a"], "output_dimension": 5, "embedding_types": ["binary"]}, "embedding_types"),
        ({"texts": ["a"], "max_tokens": 71}, "max_tokens"),
        ({"texts": ["a b c " * 40], "truncate": "NONE"}, "texts"),
    ],
)
def test_what_cohere_refuses(body: dict[str, Any], param: str, embedder: Served) -> None:
    response = embedder.post("/v2/embed", **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_the_four_forms_of_an_input(embedder: Served) -> None:
    ids = embedder.llm.tokenizer.encode("the sky")
    forms = ["the sky", ["the sky"], ids, [ids, ids]]
    found = [embedder.ok("/v1/embeddings", input=form)["data"] for form in forms]
    assert [len(data) for data in found] == [1, 1, 1, 2]
    assert len({str(each["embedding"]) for data in found for each in data}) == 1
    bare = embedder.ok("/v1/embeddings", input="the sky", add_special_tokens=False)
    assert bare["usage"]["prompt_tokens"] == len(ids) - 2


def test_options(embedder: Served) -> None:
    for body, params in (
        ({"dimensions": 5}, PoolingParams(dimensions=5)),
        ({"normalize": False}, PoolingParams(normalize=False)),
        ({"use_activation": False}, PoolingParams(normalize=False)),
        ({"truncate_prompt_tokens": 4}, PoolingParams(truncate_prompt_tokens=4)),
        (
            {"truncate_prompt_tokens": 4, "truncation_side": "left"},
            PoolingParams(truncate_prompt_tokens=4, truncation_side="left"),
        ),
    ):
        [data] = embedder.ok("/v1/embeddings", input="the deep sea", **body)["data"]
        [expected] = embedder.llm.embed("the deep sea", pooling_params=params)
        assert data["embedding"] == expected.outputs.embedding
    whole = embedder.ok("/v1/embeddings", input="a b " * 50, truncate_prompt_tokens=-1)
    assert whole["usage"]["prompt_tokens"] == 70


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": "a b c " * 40}, "input", "the prompt has 122 tokens, and the model takes 70"),
        ({"input": []}, "input", "input must hold 1 to 1024 inputs"),
        ({"input": [[]]}, "input", "holds an empty text"),
        ({"input": [["a"]]}, "input", "input must be a string, a list of strings"),
        ({"input": {"text": "a"}}, "input", "input must be a string, a list of strings"),
        ({"input": [80]}, "input", r"input must hold token ids in \[0, 79\], got 80"),
        ({"input": "a", "dimensions": 49}, "dimensions", "the model's embeddings have 48"),
        ({"input": "a", "dimensions": 0}, "dimensions", "dimensions must be at least 1, got 0"),
        ({"input": "a", "truncate_prompt_tokens": 71}, "truncate_prompt_tokens", "smaller trunc"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name", "has no prompt 'query'"),
        ({"input": "a", "use_activation": True, "normalize": False}, "use_activation", "differ"),
        ({"input": "a", "task": "classify"}, "task", "Unsupported task: 'classify': it does embed"),
        ({"input": "a", "task": "plugin"}, "task", "Unsupported task: 'plugin': it does embed"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype", "set encoding_format"),
        ({"input": "a", "add_generation_prompt": True}, "add_generation_prompt", "needs messages"),
        ({"input": "a", "messages": HELLO}, "messages", "either input or messages"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float"),
        ({"input": "a", "sparse": True}, "sparse", "sparse"),
        ({}, "input", "input must be a string"),
    ],
)
def test_a_bad_body_is_a_400_that_names_its_field(
    body: dict[str, Any], param: str, message: str, embedder: Served
) -> None:
    response, theirs = embedder.post("/v1/embeddings", **body), embedder.post("/pooling", **body)
    assert response.status_code == theirs.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert theirs.json()["error"] == error | {"type": "BadRequestError"}
    with pytest.raises(ValueError, match=message):
        raise ValueError(error["message"])


def test_pooling_gives_what_the_model_does(embedder: Served, labeller: Served) -> None:
    [vector] = embedder.ok("/pooling", input="fish")["data"]
    assert vector["object"] == "pooling"
    assert vector["data"] == embedder.llm.embed("fish")[0].outputs.embedding
    [scores] = labeller.ok("/pooling", input="fish")["data"]
    assert scores["data"] == labeller.llm.classify("fish")[0].outputs.probs


def test_classification(labeller: Served) -> None:
    answer = labeller.ok("/classify", input=["fish", "the sky is red"])
    expected = [each.outputs.probs for each in labeller.llm.classify(["fish", "the sky is red"])]
    for i, (data, probs) in enumerate(zip(answer["data"], expected, strict=True)):
        label = ("bad", "fair", "good")[int(np.argmax(probs))]
        assert data == {"index": i, "label": label, "probs": probs, "num_classes": 3}
    raw = labeller.ok("/classify", input="fish", use_activation=False)["data"][0]["probs"]
    assert sum(raw) != pytest.approx(1)
    refused = labeller.post("/classify", input="a", encoding_format="base64")
    assert refused.json()["error"]["param"] == "encoding_format"


def test_scores_and_reranking(scorer: Served, embedder: Served) -> None:
    documents = ["the sky is blue", "fish", "the deep sea"]
    for model in (scorer, embedder):
        expected = [each.outputs.score for each in model.llm.score("the sky", documents)]
        answer = model.ok("/v1/score", text_1="the sky", text_2=documents)
        for first, second in (("queries", "documents"), ("data_1", "data_2"), ("queries", "items")):
            same = model.ok("/v1/score", **{first: "the sky", second: documents})
            assert same["data"] == answer["data"]
        found = [(each["index"], each["object"]) for each in answer["data"]]
        assert found == [(0, "score"), (1, "score"), (2, "score")]
        assert [each["score"] for each in answer["data"]] == pytest.approx(expected, abs=1e-6)
        ranked = model.ok("/v1/rerank", query="the sky", documents=documents, top_n=2)
        order = sorted(range(3), key=lambda i: -expected[i])[:2]
        assert [each["index"] for each in ranked["results"]] == order
        assert [each["document"]["text"] for each in ranked["results"]] == [
            documents[i] for i in order
        ]
        assert ranked["results"][0]["relevance_score"] == pytest.approx(max(expected), abs=1e-6)
        assert ranked["usage"]["total_tokens"] > 0
    objects = [{"text": each} for each in documents]
    bare = scorer.ok("/rerank", query="the sky", documents=objects, return_documents=False)
    assert len(bare["results"]) == 3
    assert "document" not in bare["results"][0]
    scores = [(each["index"], each["relevance_score"]) for each in bare["results"]]
    listed = scorer.ok("/rerank", query="the sky", texts=documents, raw_scores=False)
    assert listed == [{"index": i, "score": score} for i, score in scores]
    [best] = scorer.ok("/rerank", query="the sky", texts=documents, return_text=True, top_n=1)
    assert best == {**listed[0], "text": documents[listed[0]["index"]]}
    cut = {"truncation_direction": "Right"}
    long = {"query": "the sky", "documents": ["the deep sea is blue"], **cut}
    short = scorer.ok("/rerank", **long, max_tokens_per_doc=2)
    first = scorer.ok("/rerank", query="the sky", documents=["the deep"])
    assert short["results"][0]["relevance_score"] == first["results"][0]["relevance_score"]
    assert short["results"][0]["document"]["text"] == "the deep sea is blue"
    whole = scorer.ok("/rerank", **long, max_tokens_per_doc=0)
    assert whole["results"] == scorer.ok("/rerank", **long)["results"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/score", {"text_1": "a"}, "text_2"),
        ("/score", {"text_1": "a", "queries": "a", "text_2": "b"}, "queries"),
        (
            "/rerank",
            {"query": "a", "documents": ["b"], "max_tokens_per_doc": -1},
            "max_tokens_per_doc",
        ),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": [3]}, "documents"),
        ("/rerank", {"query": "a"}, "documents"),
        ("/rerank", {"query": "a", "texts": ["b"], "raw_scores": True}, "raw_scores"),
        ("/rerank", {"query": "a", "documents": ["b"], "texts": ["b"]}, "documents"),
        ("/rerank", {"query": "a", "texts": []}, "texts"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ("/v1/embeddings", {"input": "a"}, "model"),
        ("/v1/completions", {"prompt": "a"}, "model"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "model"),
    ],
)
def test_what_a_cross_encoder_refuses(
    path: str, body: dict[str, Any], param: str, scorer: Served
) -> None:
    response = scorer.post(path, **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_model_of_several_labels_gives_no_score(labeller: Served) -> None:
    response = labeller.post("/v1/score", text_1="a", text_2="b")
    assert response.status_code == 400
    assert (
        "it has 3 labels, and a score needs a model with one" in response.json()["error"]["message"]
    )


def test_a_server_of_text_gives_no_embeddings() -> None:
    app = create_app(FakeEngine(), byte_tokenizer(), ServerConfig(), more_routes=ROUTES)
    for path in ("/v1/embeddings", "/pooling", "/classify"):
        response = post(app, path, {"input": "a"})
        assert response.status_code == 400
        assert "is served for text, and gives no embeddings" in response.json()["error"]["message"]
    missing = post(app, "/v1/embeddings", {"input": "a", "model": "other"})
    assert missing.status_code == 404


def test_the_official_client(embedder: Served) -> None:
    async def ask() -> Any:
        async with openai_client(embedder.app) as client:
            return await client.embeddings.create(model="it", input=["fish", "the sky"])

    answer = asyncio.run(ask())
    expected = embedder.llm.embed("the sky")[0].outputs.embedding
    np.testing.assert_array_equal(np.asarray(answer.data[1].embedding, np.float32), expected)
    [model] = get(embedder.app, "/v1/models").json()["data"]
    assert model["id"] == "it"
    assert model["max_model_len"] == 70


def test_a_request_is_one_line_of_the_log(
    embedder: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="flaxen.server"):
        embedder.ok("/v1/embeddings", input=["fish", "the sky"])
    [record] = [each for each in caplog.records if each.name == "flaxen.server"]
    assert record.__dict__["prompt_tokens"] == 7
    assert record.__dict__["prompts"] == 2
    assert "sky" not in record.getMessage()
