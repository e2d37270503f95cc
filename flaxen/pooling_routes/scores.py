"""POST /v1/score and /v1/rerank, as vLLM has them (and Jina and Cohere the latter).

A cross-encoder reads both texts of a pair at once; of embeddings the score is the cosine.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.pooling.answers import probabilities, similarity
from flaxen.pooling.inputs import input_ids, pair_ids
from flaxen.pooling_routes.bodies import RERANK_WITHOUT_EFFECT, RerankBody, ScoreBody
from flaxen.pooling_routes.run import Asked, read, tokenized, vectors
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import drop
from flaxen.server.schema import parse, shorten
from flaxen.server.usage import Usage

Scored = tuple[list[float], str, Usage]  # the scores, the answer's id, the tokens


async def score(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/score."""
    asked, own = await _read(context, http)
    body = parse(ScoreBody, own)
    (firsts, name), (seconds, field) = body.first(), body.second()
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        raise invalid(
            f"{name} has {len(firsts)} texts and {field} {len(seconds)}: give one text for all of "
            f"{field}, or as many as these",
            name,
        )
    found = await _scores(context, http, asked, list(zip(firsts, seconds, strict=True)), field)
    if found is None:
        return Response(status_code=499)
    scores, answer_id, usage = found
    data = [{"index": i, "object": "score", "score": each} for i, each in enumerate(scores)]
    return JSONResponse(asked.envelope(answer_id, usage, data=data))


async def rerank(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/rerank: the documents by how well they go with the query, best first.

    Documents that are called `texts` get the answer of Text Embeddings Inference: a list.
    """
    asked, own = await _read(context, http)
    body = parse(RerankBody, drop(own, RERANK_WITHOUT_EFFECT))
    if (body.documents is None) == (body.texts is None):
        raise invalid("give either documents or texts, and not both", "documents")
    field = "texts" if body.documents is None else "documents"
    documents = [_text(each) for each in body.documents or body.texts or ()]
    if body.top_n is not None and body.top_n < 0:
        raise invalid(f"top_n must be at least 0, got {shorten(body.top_n)}: 0 is all", "top_n")
    most = body.max_tokens_per_doc
    if most is not None and most < 0:
        raise invalid(
            f"max_tokens_per_doc must be a non-negative integer, got {shorten(most)}: 0 cuts "
            "nothing",
            "max_tokens_per_doc",
        )
    shown = documents
    if most:
        num_chars, cut = sum(map(len, documents)), context.tokenizer.cut
        shown = await tokenized(lambda: [cut(each, most) for each in documents], num_chars, context)
    pairs = [(body.query, each) for each in shown]
    found = await _scores(context, http, asked, pairs, field, prefix="rerank")
    if found is None:
        return Response(status_code=499)
    scores, answer_id, usage = found
    order = sorted(range(len(scores)), key=lambda i: -scores[i])  # equal ones in the given order
    best = order[: body.top_n or None]
    if body.texts is not None:
        texts = documents if body.return_text else None
        return JSONResponse([_ranked_text(i, scores[i], texts) for i in best])
    results = []
    for i in best:
        result: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        if body.return_documents is not False:
            result["document"] = {"text": documents[i]}
        results.append(result)
    whole = {"id": answer_id, "model": asked.model, "results": results, "usage": usage.json()}
    return JSONResponse(whole)


def _ranked_text(index: int, score: float, texts: list[str] | None) -> dict[str, Any]:
    told = {"index": index, "score": score}
    return told if texts is None else {**told, "text": texts[index]}


async def _read(context: Context, http: HttpRequest) -> tuple[Asked, dict[str, Any]]:
    asked, own = await read(context, http, None)
    if asked.pooling.task == "classify" and not asked.pooling.scores_pairs:
        raise invalid(
            f"{asked.model} has {len(asked.pooling.labels)} labels, and a score needs a model with "
            "one, or one of embeddings: use /classify",
            "model",
        )
    return asked, own


async def _scores(
    context: Context,
    http: HttpRequest,
    asked: Asked,
    pairs: list[tuple[str, str]],
    field: str,
    prefix: str = "score",
) -> Scored | None:
    """The score of each pair; None if the client has gone."""
    limit = context.config.max_sequences
    if not 0 < len(pairs) <= limit:
        raise invalid(
            f"{field} must hold 1 to {limit} texts on this server, got {len(pairs)}: send several "
            "requests",
            field,
        )
    info, pooling, params = context.engine.info, asked.pooling, asked.params
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))  # each is embedded once
    encoded = [text for pair in pairs for text in pair] if pooling.scores_pairs else texts

    def encode() -> list[list[int]]:
        tokenizer = context.tokenizer
        if pooling.scores_pairs:
            return [pair_ids(tokenizer, info, pooling, pair, params) for pair in pairs]
        return [input_ids(tokenizer, info, pooling, text, params) for text in texts]

    inputs = await tokenized(encode, sum(map(len, encoded)), context)
    found = await vectors(context, http, asked, inputs, field=field, prefix=prefix)
    if found is None:
        return None
    pooled, answer_id, usage = found
    if pooling.scores_pairs:
        logits = (probabilities(each, pooling, params) for each in pooled)
        return [float(each[0]) for each in logits], answer_id, usage
    of = dict(zip(texts, pooled, strict=True))
    return [similarity(of[first], of[second]) for first, second in pairs], answer_id, usage


def _text(document: Any) -> str:
    """The text of a document, which is a string or an object with one.

    Raises:
      ApiError: 400, it is neither.
    """
    if isinstance(document, dict) and set(document) == {"text"}:
        document = document["text"]
    if not isinstance(document, str):
        raise invalid(
            f"documents must hold texts, or objects with a text alone, got {shorten(document)}",
            "documents",
            "invalid_type",
        )
    return document
