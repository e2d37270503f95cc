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
    "quality_score",
)
_RENAMED = {"model_id": "provider_model_id"}
_RATING = "vllm-sr/operator-rating@1.0.0"  # the reference's benchmark of a bare quality_score
_DEFAULTS = {"default_model": "model", "default_reasoning_effort": "reasoning_effort"}


def move_models(old: dict[str, Item], new: dict[str, Item], problems: Problems) -> None:
    """Moves the models of an older file to their places in a new one.

    Args:
      old: the top of the file; what is moved is taken out.
      new: the new file, with the `providers` and `routing` that the old one had. What is of the
        wrong form in them stays, so that its reader says so.
      problems: gets what has no place.
    """
    given = new.get("providers")
    providers = _mapping(given)
    families: dict[str, Item] = {}
    defaults = providers.get("defaults")
    values = _mapping(defaults)
    for source in (old, providers, values):
        families |= _mapping(source.pop("reasoning_families", None))
        for key, renamed in _DEFAULTS.items():
            if key in source:
                values.setdefault(renamed, source.pop(key))
    if values:
        providers["defaults"] = Item(_line(defaults, values), values)
    servers = _servers(old, problems)
    models, cards, records = [], [], []
    for item, path in _old_models(old, providers):
        if not isinstance(item.value, dict):
            models.append(item)
            continue
        model = {_RENAMED.get(key, key): value for key, value in item.value.items()}
        name = model.get("name", Item(item.line, ""))
        card = {key: model.pop(key) for key in _TO_CARD if key in model}
        if card:
            cards.append(Item(item.line, {"name": name, **card}))
        if "reasoning_family" in model:
            family = model.pop("reasoning_family")
            known = families.get(str(family.value))
            model["reasoning"] = known or Item(family.line, {"family": family})
        _move_servers(model, servers, path, problems)
        models.append(Item(item.line, model))
    if models:
        providers["models"] = Item(_line(providers.get("models"), models[0]), models)
    if providers:
        new["providers"] = Item(_line(given, providers), providers)
    _add_cards(new, cards)
    for item in _listed(_mapping(new.get("routing")).get("modelCards")):
        if isinstance(item.value, dict) and "quality_score" in item.value:
            name = item.value.get("name", Item(item.line, ""))
            records.append(_rating(name, item.value.pop("quality_score")))
    _extend(new, "evaluation", "records", records)


def _old_models(old: dict[str, Item], providers: dict[str, Item]) -> list[tuple[Item, Path]]:
    """The models of `providers.models` and of `model_config`, whose keys are the names."""
    found: list[tuple[Item, Path]] = []
    for index, item in enumerate(_listed(providers.get("models"))):
        found.append((item, ("providers", "models", index)))
    for name, item in _mapping(old.pop("model_config", None)).items():
        value = {"name": Item(item.line, name), **_mapping(item)}
        found.append((Item(item.line, value), ("model_config", name)))
    return found


def _servers(old: dict[str, Item], problems: Problems) -> dict[str, Item]:
    """The servers of `vllm_endpoints`, by name, as backend_refs."""
    profiles = _mapping(old.pop("provider_profiles", None))
    endpoints = old.pop("vllm_endpoints", None)
    found: dict[str, Item] = {}
    for index, item in enumerate(_listed(endpoints)):
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
    for item in [*_listed(endpoints), *_listed(model.pop("backend_refs", None))]:
        values = _server(_mapping(item))
        if access_key is not None:
            values.setdefault("api_key", access_key)
        refs.append(Item(item.line, values))
    for item in _listed(preferred):
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


def _add_cards(new: dict[str, Item], cards: list[Item]) -> None:
    """Adds cards of models; one that is there already gets the fields that it has not."""
    there = {
        str(card.value["name"].value): card.value
        for card in _listed(_mapping(new.get("routing")).get("modelCards"))
        if isinstance(card.value, dict) and "name" in card.value
    }
    more = []
    for card in cards:
        fields = _mapping(card)
        known = there.get(str(fields["name"].value))
        if known is None:
            more.append(card)
        else:
            known |= {key: value for key, value in fields.items() if key not in known}
    _extend(new, "routing", "modelCards", more)


def _extend(new: dict[str, Item], key: str, inner: str, items: list[Item]) -> None:
    """Adds items to a list below a key."""
    if not items:
        return
    values = _mapping(new.get(key))
    before = _listed(values.get(inner))
    values[inner] = Item(_line(values.get(inner), items[0]), [*before, *items])
    new[key] = Item(_line(new.get(key), items[0]), values)


def _line(item: Item | None, instead: Item | dict[str, Item]) -> int:
    """The line of an item, or if there is none that of what comes to its place."""
    if item is not None:
        return item.line
    return instead.line if isinstance(instead, Item) else next(iter(instead.values())).line


def _listed(item: Item | None) -> list[Item]:
    """The values of a list; none if it is no list."""
    return item.value if item is not None and isinstance(item.value, list) else []


def _mapping(item: Item | None) -> dict[str, Item]:
    """The values of a mapping, to be changed; empty if it is none."""
    return dict(item.value) if item is not None and isinstance(item.value, dict) else {}
