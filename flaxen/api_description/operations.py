"""Describes each route, by method and path. Bodies and answers are made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.api_description.answers import EVENT_STREAM, NAMED_EVENTS
from flaxen.api_description.bodies import BLOCK_MESSAGES, CHATS, Schemas
from flaxen.api_description.control import control_operations
from flaxen.api_description.llama_cpp import llama_cpp_operations
from flaxen.api_description.operation import (
    BYTES,
    ENGINE_ERRORS,
    EVENTS,
    JSON,
    PAGING,
    PLAIN,
    Operation,
    Schema,
    json_of,
    reading,
    ref,
)
from flaxen.api_description.stored import stored_operations
from flaxen.messages_routes import bodies as messages
from flaxen.pooling_routes.bodies import (
    RERANK_WITHOUT_EFFECT,
    InputBody,
    RerankBody,
    ScoreBody,
)
from flaxen.pooling_routes.bodies import CommonBody as PoolingBody
from flaxen.pooling_routes.cohere import EmbedBody
from flaxen.responses_routes import bodies as responses
from flaxen.responses_routes.bodies import ResponseBody
from flaxen.responses_routes.compacting import COMPACT_WITHOUT_EFFECT, CompactBody
from flaxen.server.app import ALIASES, INVOCATIONS
from flaxen.server.generation import fields_without_effect as without_effect
from flaxen.server.generation.bodies import (
    ChatBody,
    CommonBody,
    CompletionBody,
    ContentBody,
    DetokenizeBody,
    TokenizeBody,
)
from flaxen.token_routes import generate
from flaxen.token_routes.derender import DerenderBody, DerenderChatBody
from flaxen.token_routes.scoring import ScoringBody

Route = tuple[str, str]  # method and path

_PAGE: Mapping[str, Schema] = {"text/html": {"type": "string"}}
_TEXT: Schema = {"type": "string"}
_FILE: Mapping[str, Schema] = {"text/javascript": _TEXT, "text/css": _TEXT}
_RESPONSE = "/v1/responses/{response_id}"


def _streamed(name: str) -> Mapping[str, Schema]:
    return {JSON: ref(name), EVENTS: EVENT_STREAM}


def make_operations(schemas: Schemas) -> dict[Route, Operation]:
    """All routes that a server may have, by method and path as they are in its table."""
    found = {
        **_messages(schemas),
        **_generating(schemas),
        **_responses(schemas),
        **_pooling(schemas),
        **llama_cpp_operations(schemas),
        **control_operations(schemas),
        **_telling(schemas),
        **stored_operations(schemas),
    }
    return found | {alias: found[route] for alias, route in ALIASES.items()}


def _generates(
    summary: str, body: Schema, answers: Mapping[str, Schema], error: str = "Error"
) -> Operation:
    return Operation(summary=summary, body=body, answers=answers, errors=ENGINE_ERRORS, error=error)


def _messages(schemas: Schemas) -> dict[Route, Operation]:
    given: Any = {"without_effect": messages.WITHOUT_EFFECT, "forms": {"messages": BLOCK_MESSAGES}}
    counted = schemas.body(messages.PromptBody, **given)
    answered = schemas.body(messages.PromptBody, messages.AnswerBody, **given)
    answers = {JSON: ref("Message"), EVENTS: NAMED_EVENTS}
    return {
        ("POST", "/v1/messages"): _generates(
            "Answers messages in blocks.", answered, answers, "MessagesError"
        ),
        ("POST", "/v1/messages/count_tokens"): _generates(
            "Counts the tokens of messages.", counted, json_of("CountedTokens"), "MessagesError"
        ),
    }


def _generating(schemas: Schemas) -> dict[Route, Operation]:
    completion = schemas.body(CommonBody, CompletionBody, without_effect=without_effect.COMPLETION)
    chat = schemas.body(CommonBody, ChatBody, without_effect=without_effect.CHAT)
    chats = schemas.body(
        CommonBody, ChatBody, without_effect=without_effect.CHAT, forms={"messages": CHATS}
    )
    tokens = schemas.body(CommonBody, generate.GenerateBody, without_effect=generate.WITHOUT_EFFECT)
    tokens = schemas.nested(generate.OUTER, generate.SAMPLING, tokens)

    rendered = ref("RenderedRequest")
    return {
        ("POST", "/v1/completions"): _generates(
            "Continues prompts.", completion, _streamed("Completion")
        ),
        ("POST", "/v1/chat/completions"): _generates(
            "Answers messages.", chat, _streamed("ChatCompletion")
        ),
        ("POST", "/v1/chat/completions/batch"): _generates(
            "Answers several chats, with a choice for each.", chats, {JSON: ref("ChatCompletion")}
        ),
        ("POST", "/v1/completions/render"): _generates(
            "The token ids of prompts.", completion, {JSON: {"type": "array", "items": rendered}}
        ),
        ("POST", "/v1/chat/completions/render"): _generates(
            "The token ids of messages.", chat, {JSON: rendered}
        ),
        ("POST", "/v1/completions/derender"): _generates(
            "Prompts' answers, of generated tokens.",
            schemas.body(DerenderBody),
            {JSON: {"type": "object"}},
        ),
        ("POST", "/v1/chat/completions/derender"): _generates(
            "A chat's answer, of generated tokens.",
            schemas.body(DerenderChatBody),
            {JSON: {"type": "object"}},
        ),
        ("POST", "/generative_scoring"): _generates(
            "How likely texts go on with one of some tokens.",
            schemas.body(CommonBody, ScoringBody, without_effect=without_effect.COMPLETION),
            json_of("Scores"),
        ),
        ("POST", "/inference/v1/generate"): _generates(
            "Continues token ids by token ids.", tokens, _streamed("GeneratedTokens")
        ),
        INVOCATIONS: _generates(
            "Answers as the route that the body's fields are of.",
            {"type": "object"},
            {JSON: {"type": "object"}, EVENTS: EVENT_STREAM},
        ),
    }


def _responses(schemas: Schemas) -> dict[Route, Operation]:
    items: Schema = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    given: Schema = {"anyOf": [{"type": "string"}, items]}
    body = schemas.body(
        CommonBody,
        ResponseBody,
        without_effect=responses.WITHOUT_EFFECT,
        forms={
            "input": given,
            "response_format": {"type": "null"},  # of other routes: here it is text.format
        },
    )
    events: Mapping[str, Schema] = {JSON: ref("Response"), EVENTS: NAMED_EVENTS}

    def operation(summary: str, answers: Mapping[str, Schema], **query: Schema) -> Operation:
        return Operation(summary=summary, answers=answers, errors=(400, 404, 500), query=query)

    whole: Schema = {"type": "integer", "minimum": 0}
    return {
        ("POST", "/v1/responses"): Operation(
            summary="Makes a response.", body=body, answers=events, errors=ENGINE_ERRORS
        ),
        ("POST", "/v1/responses/compact"): Operation(
            summary="Summarizes a conversation in one item.",
            body=schemas.body(
                CompactBody, without_effect=COMPACT_WITHOUT_EFFECT, forms={"input": given}
            ),
            answers=json_of("CompactedResponse"),
            errors=ENGINE_ERRORS,
        ),
        ("POST", "/v1/responses/input_tokens"): reading(
            "The number of tokens of an input.", body, json_of("InputTokens")
        ),
        ("GET", _RESPONSE): operation(
            "A response.", events, stream={"type": "boolean"}, starting_after=whole
        ),
        ("DELETE", _RESPONSE): operation("Deletes a response.", json_of("Deleted")),
        ("POST", f"{_RESPONSE}/cancel"): operation("Ends a response.", json_of("Response")),
        ("GET", f"{_RESPONSE}/input_items"): operation(
            "What a response was asked.",
            json_of("ResponseItems"),
            order={"enum": ["asc", "desc"]},
            **PAGING,
        ),
    }


def _pooling(schemas: Schemas) -> dict[Route, Operation]:
    tasks: Schema = {"enum": ["embed", "classify"]}
    inputs = schemas.body(PoolingBody, InputBody, forms={"task": tasks})

    def operation(summary: str, body: Schema, answer: str) -> Operation:
        return Operation(summary=summary, body=body, answers=json_of(answer), errors=ENGINE_ERRORS)

    def numbers(summary: str, answer: str) -> Operation:
        answers = {JSON: ref(answer), BYTES: {"type": "string"}}
        return Operation(summary=summary, body=inputs, answers=answers, errors=ENGINE_ERRORS)

    score = operation("Scores of pairs of texts.", schemas.body(PoolingBody, ScoreBody), "Scores")
    listed: Schema = {"type": "array", "items": ref("RankedText")}
    rerank = Operation(
        summary="Documents by how well they go with a query.",
        body=schemas.reranked(PoolingBody, RerankBody, without_effect=RERANK_WITHOUT_EFFECT),
        answers={JSON: {"anyOf": [ref("Ranking"), listed]}},
        errors=ENGINE_ERRORS,
    )
    return {
        ("POST", "/v1/embeddings"): numbers("Embeddings of texts.", "Embeddings"),
        ("POST", "/v2/embed"): operation(
            "Embeddings of texts, as Cohere has them.", schemas.body(EmbedBody), "CohereEmbeddings"
        ),
        ("POST", "/pooling"): numbers("What the model gives of texts.", "Pooled"),
        ("POST", "/classify"): operation("The labels' scores of texts.", inputs, "Labels"),
        **dict.fromkeys([("POST", "/v1/score"), ("POST", "/score")], score),
        **dict.fromkeys([("POST", f"{v}/rerank") for v in ("/v1", "/v2", "")], rerank),
    }


def _tokenized(schemas: Schemas) -> Schema:
    return schemas.body(
        TokenizeBody,
        without_effect=without_effect.TOKENIZE,
        forms={"prompt": {"type": "string"}},
    )


def _telling(schemas: Schemas) -> dict[Route, Operation]:
    content = schemas.body(ContentBody, without_effect=without_effect.TOKENIZE_CONTENT)

    def operation(summary: str, answer: str, *errors: int, is_open: bool = False) -> Operation:
        return Operation(
            summary=summary, answers=json_of(answer), errors=(*errors, 500), is_open=is_open
        )

    return {
        ("GET", "/v1/models"): operation("The models and adapters.", "Models"),
        ("GET", "/v1/models/{name:path}"): operation("One of them.", "Model", 404),
        ("POST", "/tokenize"): reading(
            "The token ids of a text or of messages.",
            {"anyOf": [_tokenized(schemas), content]},
            {JSON: {"anyOf": [ref("Tokens"), ref("ContentTokens")]}},
        ),
        ("POST", "/detokenize"): reading(
            "The text of token ids.", schemas.body(DetokenizeBody), json_of("Prompt")
        ),
        ("GET", "/tokenizer_info"): operation("The special tokens.", "TokenizerInfo"),
        ("GET", "/health"): operation("Whether requests are taken.", "Health", 503, is_open=True),
        ("GET", "/load"): operation("How many sequences there are to compute.", "Load"),
        ("GET", "/version"): operation("The server's version.", "Version"),
        ("GET", "/metrics"): Operation(
            summary="Prometheus.",
            answers={**PLAIN, "application/openmetrics-text": {"type": "string"}},
        ),
        ("GET", "/"): Operation(summary="A page for people.", answers=_PAGE, is_open=True),
        ("GET", "/docs"): Operation(summary="The reference.", answers=_PAGE, is_open=True),
        ("GET", "/page/{name}"): Operation(
            summary="A file that the pages load.", answers=_FILE, errors=(404,), is_open=True
        ),
        ("GET", "/openapi.json"): Operation(
            summary="This description.", answers={JSON: {"type": "object"}}, is_open=True
        ),
    }
