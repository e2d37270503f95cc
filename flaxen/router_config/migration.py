"""Files of v0.1, and the flat ones before it, as files of v0.3.

The places of keys change and nothing else, so that errors name the lines of the old file. What the
public reference drops in silence, because it does not know it, is an error here.
"""

from __future__ import annotations

from flaxen.router_config.items import Item
from flaxen.router_config.old_models import move_models
from flaxen.router_config.problems import Problems

_KEPT = ("listeners", "providers", "routing", "recipes", "entrypoints", "evaluation", "global")
_SIGNALS = {
    "keyword_rules": "keywords",
    "embedding_rules": "embeddings",
    "categories": "domains",
    "fact_check_rules": "fact_check",
    "user_feedback_rules": "user_feedbacks",
    "reask_rules": "reasks",
    "preference_rules": "preferences",
    "language_rules": "language",
    "context_rules": "context",
    "structure_rules": "structure",
    "complexity_rules": "complexity",
    "modality_rules": "modality",
} | {
    name: name
    for name in (
        "role_bindings",
        "jailbreak",
        "hallucination",
        "pii",
        "kb",
        "conversation",
        "events",
        "metadata",
        "classifiers",
        "input_modality",
    )
}
_PROVIDERS = (
    "default_model",
    "default_reasoning_effort",
    "reasoning_families",
    "model_config",
    "vllm_endpoints",
    "provider_profiles",
)
_MODULES = "model_catalog.modules"
_GLOBAL = {
    **{
        name: f"router.{name}"
        for name in (
            "strategy",
            "auto_model_name",
            "auto_model_names",
            "include_config_models_in_list",
            "clear_route_cache",
            "model_selection",
        )
    },
    "streamed_body_mode": "router.streamed_body.enabled",
    "max_streamed_body_bytes": "router.streamed_body.max_bytes",
    "streamed_body_timeout_sec": "router.streamed_body.timeout_sec",
    **{
        name: f"services.{name}"
        for name in ("response_api", "router_replay", "api", "observability", "authz", "ratelimit")
    },
    "semantic_cache": "stores.response_cache",
    "response_cache": "stores.response_cache",
    "memory": "stores.memory",
    "vector_store": "stores.vector_store",
    "tools": "integrations.tools",
    "looper": "integrations.looper",
    "system_models": "model_catalog.system",
    "external_models": "model_catalog.external",
    "embedding_models": "model_catalog.embeddings.semantic",
    "prompt_compression": f"{_MODULES}.prompt_compression",
    "prompt_guard": f"{_MODULES}.prompt_guard",
    "feedback_detector": f"{_MODULES}.feedback_detector",
    "modality_detector": f"{_MODULES}.modality_detector",
}
# Keys below a key of the old file, and where they go.
_NESTED = {
    "bert_model": {
        "model_id": "model_catalog.embeddings.semantic.bert_model_path",
        "use_cpu": "model_catalog.embeddings.semantic.use_cpu",
        "threshold": "model_catalog.embeddings.semantic.embedding_config.min_score_threshold",
    },
    "classifier": {
        "category_model": f"{_MODULES}.classifier.domain",
        "pii_model": f"{_MODULES}.classifier.pii",
        "mcp_category_model": f"{_MODULES}.classifier.mcp",
        "preference_model": f"{_MODULES}.classifier.preference",
    },
    "hallucination_mitigation": {
        "enabled": f"{_MODULES}.hallucination_mitigation.enabled",
        "fact_check_model": f"{_MODULES}.hallucination_mitigation.fact_check",
        "hallucination_model": f"{_MODULES}.hallucination_mitigation.detector",
        "nli_model": f"{_MODULES}.hallucination_mitigation.explainer",
    },
}
_OLD = {"signals", "decisions", *_SIGNALS, *_PROVIDERS, *_GLOBAL, *_NESTED}


def is_old(file: Item) -> bool:
    """Whether a file is older than v0.3: it says so, or has keys at its top that v0.3 has not."""
    if not isinstance(file.value, dict):
        return False
    version = file.value.get("version")
    if version is not None:
        return version.value == "v0.1"
    return any(key in _OLD for key in file.value)


def migrate(file: Item) -> Item:
    """The same as a file of v0.3 as it is now: the first ones named models as older files do.

    Raises:
      ConfigError: a key has no place there, or two keys have the same.
    """
    if not isinstance(file.value, dict):
        return file  # its reader says what is wrong
    problems = Problems()
    if not is_old(file):
        renewed = {key: _deep_copy(value) for key, value in file.value.items()}
        move_models({}, renewed, problems)
        return Item(file.line, renewed)
    old = {key: _deep_copy(value) for key, value in file.value.items()}
    new = {key: old.pop(key) for key in _KEPT if key in old}
    new["version"] = Item(old.pop("version", file).line, "v0.3")
    routing = _below(new, "routing", file.line)
    for key in ("signals", "decisions"):
        if key in old:
            _put(routing, key, old.pop(key), problems)
    for key, collection in _SIGNALS.items():
        if key in old:
            _put(_below(routing, "signals", file.line), collection, old.pop(key), problems)
    move_models(old, new, problems)
    shared = _below(new, "global", file.line)
    for key, item in old.items():
        if key in _GLOBAL:
            _put_at(shared, _GLOBAL[key], item, problems)
        elif key in _NESTED:
            for inner, below in item.value.items() if isinstance(item.value, dict) else ():
                if inner in _NESTED[key]:
                    _put_at(shared, _NESTED[key][inner], below, problems)
                else:
                    problems.add(below.line, (key, inner), _NO_PLACE)
        else:
            problems.add(item.line, (key,), _NO_PLACE)
    problems.raise_any()
    return Item(file.line, new)


_NO_PLACE = "this key of an older version has no place in v0.3: remove it"


def _deep_copy(item: Item) -> Item:
    """A copy that may be changed."""
    value = item.value
    if isinstance(value, dict):
        return Item(item.line, {key: _deep_copy(below) for key, below in value.items()})
    if isinstance(value, list):
        return Item(item.line, [_deep_copy(below) for below in value])
    return item


def _below(values: dict[str, Item], key: str, line: int) -> dict[str, Item]:
    """The mapping of a key, made if it is not there."""
    found = values.get(key)
    made: dict[str, Item] = dict(found.value) if found and isinstance(found.value, dict) else {}
    values[key] = Item(found.line if found else line, made)
    return made


def _put_at(values: dict[str, Item], place: str, item: Item, problems: Problems) -> None:
    *above, last = place.split(".")
    for key in above:
        values = _below(values, key, item.line)
    _put(values, last, item, problems)


def _put(values: dict[str, Item], key: str, item: Item, problems: Problems) -> None:
    """Puts a value at its place, unless it is empty or the place is taken."""
    if not item.value:
        return
    if key in values:
        text = f"its place in v0.3 is taken by line {values[key].line}: remove one of them"
        problems.add(item.line, (key,), text)
    values[key] = item
