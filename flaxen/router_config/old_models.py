"""The models of files before v0.3: as providers, cards and evidence of quality."""

from __future__ import annotations

from flaxen.router_config.items import Item
from flaxen.router_config.problems import Path, Problems

_TO_CARD = (
    "param_size",
    "context_window_size",
    "description",
    "capabilities",
    "loras",
    "modality",
    "tags",
)
_RENAMED = {"model_id": "provider_model_id"}
_RATING = "vllm-sr/operator-rating@1.0.0"  # the reference's benchmark of a bare quality_score
_DEFAULTS = {"default_model": "model", "default_reasoning_effort": "reasoning_effort"}


def move_models(old: dict[str, Item], new: dict[str, Item], problems: Problems) -> None:
    """Moves the models of an old file to their places in a new one.

    Args:
      old: the top of the file; what is moved is taken out.
      new: the new file, with the `providers` that the old one had.
      problems: gets what has no place.
    """
    providers = _mapping(new.pop("providers", None))
    defaults = _mapping(providers.get("defaults"))
    for key, renamed in _DEFAULTS.items():
        for source in (old, providers):
            if key in source:
                defaults.setdefault(renamed, source.pop(key))
    families = _mapping(old.pop("reasoning_families", None))
    families |= _mapping(providers.pop("reasoning_families", None))
    servers = _servers(old, problems)
    models, cards, records = [], [], []
    for item, path in _old_models(old, providers):
        if not isinstance(item.value, dict):
            models.append(item)  # its reader says what is wrong
            continue
        model = {_RENAMED.get(key, key): value for key, value in item.value.items()}
        name = model.get("name", Item(item.line, ""))
        card = {key: model.pop(key) for key in _TO_CARD if key in model}
        if card:
            cards.append(Item(item.line, {"name": name, **card}))
        if "quality_score" in model:
            records.append(_rating(name, model.pop("quality_score")))
        if "reasoning_family" in model:
            family = model.pop("reasoning_family")
            known = families.get(str(family.value))
            model["reasoning"] = known or Item(family.line, {"family": family})
        _move_servers(model, servers, path, problems)
        models.append(Item(item.line, model))
    line = models[0].line if models else 1
    if defaults:
        providers["defaults"] = Item(line, defaults)
    if models:
        providers["models"] = Item(line, models)
    if providers:
        new["providers"] = Item(line, providers)
    _extend(new, "routing", "modelCards", cards)
    _extend(new, "evaluation", "records", records)


def _old_models(old: dict[str, Item], providers: dict[str, Item]) -> list[tuple[Item, Path]]:
    """The models of `providers.models` and of `model_config`, whose keys are the names."""
    found: list[tuple[Item, Path]] = []
    listed = providers.get("models")
    if listed is not None and isinstance(listed.value, list):
        found += [(item, ("providers", "models", i)) for i, item in enumerate(listed.value)]
    for name, item in _mapping(old.pop("model_config", None)).items():
        value = {"name": Item(item.line, name), **_mapping(item)}
        found.append((Item(item.line, value), ("model_config", name)))
    return found


def _servers(old: dict[str, Item], problems: Problems) -> dict[str, Item]:
    """The servers of `vllm_endpoints`, by name, as backend_refs."""
    profiles = _mapping(old.pop("provider_profiles", None))
    endpoints = old.pop("vllm_endpoints", None)
    found: dict[str, Item] = {}
    listed = endpoints.value if endpoints is not None else None
    for index, item in enumerate(listed if isinstance(listed, list) else []):
        values = _mapping(item)
        path: Path = ("vllm_endpoints", index)
        profile = values.pop("provider_profile", None)
        if profile is not None:
            known = _mapping(profiles.get(str(profile.value)))
            if not known:
                problems.add(profile.line, path, f"there is no provider_profile {profile.value!r}")
            values = {**known, **values}
        address, port = values.pop("address", None), values.pop("port", None)
        if address is not None and port is not None:
            values["endpoint"] = Item(address.line, f"{address.value}:{port.value}")
        found[str(values.get("name", item).value)] = Item(item.line, _server(values))
    return found


def _server(values: dict[str, Item]) -> dict[str, Item]:
    return {"provider" if key == "type" else key: value for key, value in values.items()}


def _move_servers(
    model: dict[str, Item], servers: dict[str, Item], path: Path, problems: Problems
) -> None:
    """Makes backend_refs of a model's endpoints, or of those that it prefers."""
    for key, value in _mapping(model.pop("access", None)).items():
        model.setdefault(key, value)
    endpoints = model.pop("endpoints", None)
    preferred = model.pop("preferred_endpoints", None)
    access_key = model.pop("access_key", None)
    refs: list[Item] = []
    if endpoints is not None and isinstance(endpoints.value, list):
        for item in endpoints.value:
            values = _server(_mapping(item))
            if access_key is not None:
                values.setdefault("api_key", access_key)
            refs.append(Item(item.line, values))
    for item in preferred.value if preferred and isinstance(preferred.value, list) else []:
        if str(item.value) in servers:
            refs.append(servers[str(item.value)])
        else:
            problems.add(item.line, path, f"there is no endpoint {item.value!r} in vllm_endpoints")
    if refs:
        model.setdefault("backend_refs", Item(refs[0].line, refs))


def _rating(name: Item, score: Item) -> Item:
    """A quality_score as a record of the evaluation."""
    values = {
        "model": name,
        "benchmark": Item(score.line, _RATING),
        "metrics": Item(score.line, {"score": score}),
    }
    return Item(score.line, values)


def _extend(new: dict[str, Item], key: str, inner: str, items: list[Item]) -> None:
    """Adds items to a list below a key."""
    if not items:
        return
    values = _mapping(new.get(key))
    listed = values.get(inner)
    before = listed.value if listed is not None and isinstance(listed.value, list) else []
    values[inner] = Item(items[0].line, [*before, *items])
    new[key] = Item(items[0].line, values)


def _mapping(item: Item | None) -> dict[str, Item]:
    """The values of a mapping, to be changed; empty if it is none."""
    return dict(item.value) if item is not None and isinstance(item.value, dict) else {}
