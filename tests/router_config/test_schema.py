"""Every key of the public reference's schema is read, or refused by its name with a reason."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flaxen.router.selection.algorithms import Algorithm
from flaxen.router.signals.kinds import KINDS
from flaxen.router_config.file import File
from flaxen.router_config.plugins import OWN_PLUGINS, PLUGINS, REFUSED_PLUGINS, Plugin
from flaxen.router_config.refused import REFUSED
from flaxen.router_config.routing import Signals

Schema = dict[str, Any]
# The definitions of the schema, as the reference's names have them.
_DEFINITION_OF = {
    name: "".join(part.capitalize() for part in name.split("_")) + "PluginConfig"
    for name in PLUGINS.keys() - OWN_PLUGINS
} | {"router_replay": "RouterReplayPluginConfig"}


def schema() -> Schema:
    try:
        package = importlib.metadata.distribution("vllm-sr")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the reference's schema: pip install --no-deps vllm-sr")
    path = "cli/config_schema/router-config-v0.3.schema.json"
    found: Schema = json.loads(Path(str(package.locate_file(path))).read_text("utf-8"))
    return found


def test_every_key_is_read_or_refused_by_name() -> None:
    top = schema()
    seen: set[type] = set()
    missing = list(_missing(File, top, top, "", seen))
    for name, definition in _DEFINITION_OF.items():
        missing += _missing(PLUGINS[name], top["$defs"][definition], top, name, seen)
    assert missing == []
    assert Algorithm in seen  # the walk comes as far as the leaves


def test_every_plugin_is_known_by_name() -> None:
    types_of_plugins = schema()["$defs"]["DecisionPlugin"]["properties"]["type"]["enum"]
    assert set(types_of_plugins) == (set(PLUGINS) - OWN_PLUGINS) | set(REFUSED_PLUGINS)


def _missing(
    read: type[Any], found: Schema, top: Schema, path: str, seen: set[type]
) -> Iterator[str]:
    """The keys of a definition that its dataclass neither reads nor refuses."""
    keys = _resolved(found, top).get("properties", {})
    if read in seen:
        return
    seen.add(read)
    fields: dict[str, type[Any] | None]
    if read is Signals:
        fields = {kind.collection: kind.rule for kind in KINDS}
    else:
        hints = typing.get_type_hints(read)
        fields = {f.name.rstrip("_"): _class(hints[f.name]) for f in dataclasses.fields(read)}
    refused = REFUSED.get(read, {})
    for key, below in keys.items():
        if key not in fields and key not in refused and "*" not in refused:
            yield f"{path}.{key}"
        inner = fields.get(key)
        if inner is not None and inner is not Plugin:
            yield from _missing(inner, below, top, f"{path}.{key}", seen)


def _resolved(found: Schema, top: Schema) -> Schema:
    """The definition of a mapping, behind references, lists and maps."""
    while True:
        if "$ref" in found:
            found = top["$defs"][found["$ref"].rpartition("/")[2]]
        elif "items" in found:
            found = found["items"]
        elif "properties" not in found and isinstance(found.get("additionalProperties"), dict):
            found = found["additionalProperties"]
        elif "properties" not in found and "allOf" in found:
            found = found["allOf"][0]
        else:
            return found


def _class(hint: Any) -> type[Any] | None:
    """The dataclass in a type, if there is one."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union, tuple) or (
        isinstance(origin, type) and issubclass(origin, Mapping)
    ):
        inner = [_class(argument) for argument in typing.get_args(hint)]
        return next((found for found in inner if found is not None), None)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
