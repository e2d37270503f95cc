"""Mappings that are read by a table: signals by their collection, plugins by their type."""

from __future__ import annotations

from typing import Any

from flaxen.router.signals.kinds import KINDS
from flaxen.router_config.items import Item
from flaxen.router_config.plugins import PLUGINS, REFUSED_PLUGINS, Plugin
from flaxen.router_config.problems import Path, Problems, error_at
from flaxen.router_config.reading import Reader, mapping_of, suggestion
from flaxen.router_config.routing import Signals

_KIND_OF = {kind.collection: kind for kind in KINDS}
# Older names of the reference.
_RENAMED = {"semantic_cache": "response_cache"}


def read_signals(reader: Reader, item: Item, path: Path) -> Signals:
    """Reads the rules of all kinds.

    Raises:
      ConfigError: a collection or a rule is none, or two rules of a kind have one name.
    """
    problems = Problems()
    rules: dict[str, tuple[Any, ...]] = {}
    for collection, below in mapping_of(item, path).items():
        kind = _KIND_OF.get(collection)
        if kind is None:
            text = f"unknown kind of signals: {suggestion(collection, list(_KIND_OF))}"
            problems.add(below.line, (*path, collection), text)
        elif below.value is not None:
            with problems.collecting():
                rules[collection] = reader.list_of(kind.rule, below, (*path, collection))
            _check_names(rules.get(collection, ()), kind.ignores_case, below, path, problems)
    problems.raise_any()
    return Signals(rules=rules)


def _check_names(
    rules: tuple[Any, ...], ignores_case: bool, item: Item, path: Path, problems: Problems
) -> None:
    assert isinstance(item.value, list) or not rules
    first: dict[str, int] = {}
    for index, rule in enumerate(rules):
        name = rule.name.lower() if ignores_case else rule.name
        if name in first and isinstance(item.value, list):
            problems.add(
                item.value[index].line,
                path,
                f"two signals of a kind are called {rule.name!r}, the other in line "
                f"{item.value[first[name]].line}: rename one",
            )
        first.setdefault(name, index)


def read_plugin(reader: Reader, item: Item, path: Path) -> Plugin:
    """Reads a plugin: its type decides what its configuration is.

    Raises:
      ConfigError: the type or the configuration is none.
    """
    values = mapping_of(item, path)
    unknown = [key for key in values if key not in ("type", "configuration")]
    if unknown:
        text = f"unknown key: {suggestion(unknown[0], ['type', 'configuration'])}"
        raise error_at(values[unknown[0]].line, (*path, unknown[0]), text)
    given = values.get("type", Item(item.line, None))
    kind = reader.value(str, given, (*path, "type")).replace("-", "_")
    kind = _RENAMED.get(kind, kind)
    if kind in REFUSED_PLUGINS:
        text = f"the plugin {kind} is not supported: {REFUSED_PLUGINS[kind]}"
        raise error_at(given.line, (*path, "type"), text)
    if kind not in PLUGINS:
        text = f"unknown plugin {kind!r}: {suggestion(kind, list(PLUGINS))}"
        raise error_at(given.line, (*path, "type"), text)
    configuration = values.get("configuration", Item(item.line, {}))
    read: Any = reader.read(PLUGINS[kind], configuration, (*path, "configuration"))
    return Plugin(type=kind, configuration=read)
