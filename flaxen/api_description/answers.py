"""JSON schemas of answers, by name. Answers may have more fields than are told here."""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.api_description.operation import Schema, ref

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_IDS: Schema = {"type": "array", "items": _COUNT}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _constant(value: str) -> Schema:
    return {"const": value}


_ENDED: dict[str, Schema] = {
    "index": _COUNT,
    "finish_reason": _or_null(
        {"enum": ["stop", "length", "tool_calls", "function_call", "abort", "error"]}
    ),
    "stop_reason": _or_null({"type": ["string", "integer"]}),
    "logprobs": _or_null({"type": "object"}),
}
_ENVELOPE: dict[str, Schema] = {
    "id": _STRING,
    "created": _COUNT,
    "model": _STRING,
    "system_fingerprint": _STRING,
    "service_tier": {"type": "null"},
    "kv_transfer_params": {"type": "null"},
    "usage": ref("Usage"),
    "weights_version": _COUNT,
}
_PROMPT_LOGPROBS = _or_null(_list_of(_or_null({"type": "object"})))


def _listed(item: Schema) -> Schema:
    """A page of a list."""
    ends = {"first_id": _STRING, "last_id": _STRING}
    more: Schema = {"type": "boolean"}
    return _object(object=_constant("list"), data=_list_of(item), **ends, has_more=more)


def _pooled(item: Schema) -> Schema:
    return _object(
        id=_STRING,
        object=_constant("list"),
        created=_COUNT,
        model=_STRING,
        data=_list_of(item),
        usage=ref("Usage"),
    )


_FILE = _object(
    id=_STRING,
    object=_constant("file"),
    bytes=_COUNT,
    created_at=_COUNT,
    filename=_STRING,
    purpose=_STRING,
    status=_STRING,
)
_JOB = _object(
    id=_STRING,
    object=_constant("fine_tuning.job"),
    created_at=_COUNT,
    status=_STRING,
    model=_STRING,
    training_file=_STRING,
)
_BATCH = _object(
    id=_STRING,
    object=_constant("batch"),
    created_at=_COUNT,
    status=_STRING,
    endpoint=_STRING,
    input_file_id=_STRING,
    output_file_id=_or_null(_STRING),
    error_file_id=_or_null(_STRING),
    request_counts=_object(total=_COUNT, completed=_COUNT, failed=_COUNT),
)
_MODEL = _object(
    id=_STRING,
    object=_constant("model"),
    created=_COUNT,
    owned_by=_STRING,
    root=_STRING,
    parent=_or_null(_STRING),
    max_model_len=_COUNT,
    type=_constant("model"),
    display_name=_STRING,
    created_at=_STRING,
)
_BASE_ONLY = {"weights_version": _COUNT}
_MODEL = {**_MODEL, "properties": {**_MODEL["properties"], **_BASE_ONLY}}

_ITEM = _object(id=_STRING, type=_STRING, status=_STRING)
_RESPONSE = _object(
    id=_STRING,
    object=_constant("response"),
    created_at=_COUNT,
    status={
        "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"],
    },
    model=_STRING,
    output=_list_of(_ITEM),
    error=_or_null(_object(code=_STRING, message=_STRING)),
    incomplete_details=_or_null(_object(reason=_STRING)),
    usage=_or_null(_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT)),
    previous_response_id=_or_null(_STRING),
)

_CHAT = _object(
    object=_constant("chat.completion"),
    choices=_list_of(
        _object(
            message=_object(role=_constant("assistant"), content=_or_null(_STRING)),
            token_ids=_or_null(_IDS),
            **_ENDED,
        )
    ),
    prompt_token_ids=_or_null(_IDS),
    prompt_logprobs=_PROMPT_LOGPROBS,
    **_ENVELOPE,
)

ANSWERS: Mapping[str, Schema] = {
    "Error": _object(
        error=_object(
            message=_STRING, type=_STRING, param=_or_null(_STRING), code=_or_null(_STRING)
        )
    ),
    "Usage": _object(
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        prompt_tokens_details=_object(cached_tokens=_COUNT),
    ),
    "Completion": _object(
        object=_constant("text_completion"),
        choices=_list_of(
            _object(
                text=_STRING,
                token_ids=_or_null(_IDS),
                prompt_token_ids=_or_null(_IDS),
                prompt_logprobs=_PROMPT_LOGPROBS,
                **_ENDED,
            )
        ),
        **_ENVELOPE,
    ),
    "ChatCompletion": _CHAT,
    "ChatCompletions": _listed(_CHAT),
    "ChatMessages": _listed(_object(id=_STRING, role=_STRING)),
    "GeneratedTokens": _object(
        request_id=_STRING,
        choices=_list_of(_object(token_ids=_IDS, **_ENDED)),
        prompt_logprobs=_PROMPT_LOGPROBS,
        **_ENVELOPE,
    ),
    "Message": _object(
        id=_STRING,
        type=_constant("message"),
        role=_constant("assistant"),
        model=_STRING,
        content=_list_of({"type": "object", "required": ["type"]}),
        stop_reason=_STRING,
        stop_sequence=_or_null(_STRING),
        usage=_object(
            input_tokens=_COUNT,
            cache_creation_input_tokens=_COUNT,
            cache_read_input_tokens=_COUNT,
            output_tokens=_COUNT,
        ),
    ),
    "MessagesError": _object(type=_constant("error"), error=_object(type=_STRING, message=_STRING)),
    "CountedTokens": _object(input_tokens=_COUNT),
    "RenderedRequest": _object(
        request_id=_STRING,
        model=_STRING,
        token_ids=_IDS,
        token_offsets=_or_null(_list_of(_list_of(_COUNT))),
        sampling_params={"type": "object"},
        stream={"type": "boolean"},
        stream_options=_or_null({"type": "object"}),
        cache_salt=_or_null(_STRING),
        priority={"type": "integer"},
    ),
    "Embeddings": _pooled(_object(index=_COUNT, object=_STRING, embedding={})),
    "Pooled": _pooled(_object(index=_COUNT, object=_STRING, data={})),
    "CohereEmbeddings": _object(
        id=_STRING,
        embeddings={"type": "object"},
        texts=_list_of(_STRING),
        meta={"type": "object"},
        response_type=_constant("embeddings_by_type"),
    ),
    "Labels": _pooled(
        _object(index=_COUNT, label=_STRING, probs=_list_of({"type": "number"}), num_classes=_COUNT)
    ),
    "Scores": _pooled(_object(index=_COUNT, object=_constant("score"), score={"type": "number"})),
    "RankedText": _object(index=_COUNT, score={"type": "number"}),
    "Ranking": _object(
        id=_STRING,
        model=_STRING,
        results=_list_of(_object(index=_COUNT, relevance_score={"type": "number"})),
        usage=ref("Usage"),
    ),
    "Model": _MODEL,
    "Models": _listed(_MODEL),
    "Tokens": _object(
        count=_COUNT,
        max_model_len=_COUNT,
        tokens=_IDS,
        token_strs=_or_null(_list_of(_STRING)),
    ),
    "ContentTokens": _object(tokens=_list_of({"type": ["integer", "object"]})),
    "Prompt": _object(prompt=_STRING),
    # response_fields chooses among these.
    "Continued": {
        "type": "object",
        "properties": {
            "content": _STRING,
            "tokens": _IDS,
            "stop": {"const": True},
            "stop_type": {"enum": ["limit", "word", "eos"]},
            "tokens_predicted": _COUNT,
            "tokens_evaluated": _COUNT,
            "generation_settings": {"type": "object"},
            "timings": {"type": "object"},
        },
    },
    "Props": _object(
        default_generation_settings=_object(n_ctx=_COUNT, params={"type": "object"}),
        model_alias=_STRING,
        chat_template=_STRING,
    ),
    "TokenizerInfo": _object(
        tokenizer_class=_STRING,
        bos_token=_or_null(_STRING),
        eos_token=_or_null(_STRING),
        chat_template=_or_null(_STRING),
        added_tokens_decoder={"type": "object"},
    ),
    "Health": _object(status=_constant("ok")),
    "Load": _object(server_load=_COUNT),
    "Version": _object(version=_STRING),
    "File": _FILE,
    "Files": _listed(_FILE),
    "Batch": _BATCH,
    "Batches": _listed(_BATCH),
    "FineTuningJob": _JOB,
    "FineTuningJobs": _listed(_JOB),
    "FineTuningEvents": _listed(_object(id=_STRING, message=_STRING, level=_STRING)),
    "FineTuningCheckpoints": _listed(_object(id=_STRING, step_number=_COUNT)),
    "Response": _RESPONSE,
    "ResponseItems": _listed(_ITEM),
    "CompactedResponse": _object(
        id=_STRING,
        object=_constant("response.compaction"),
        created_at=_COUNT,
        output=_list_of(_object(id=_STRING, type=_STRING, encrypted_content=_STRING)),
        usage=_object(input_tokens=_COUNT, output_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "InputTokens": _object(object=_constant("response.input_tokens"), input_tokens=_COUNT),
    "Deleted": _object(id=_STRING, object=_STRING, deleted={"const": True}),
}


EVENT_STREAM: Schema = {
    "type": "string",
    "description": "Server-sent events, with stream=true: each is a part of the answer as JSON, "
    "the last is [DONE].",
}
NAMED_EVENTS: Schema = {
    "type": "string",
    "description": "Server-sent events, with stream=true: each has a name, which is the type in "
    "its JSON; the last one says how the response ended.",
}
