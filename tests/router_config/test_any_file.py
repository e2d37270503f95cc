"""Whatever a file says, it is read or refused, and every error has its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.router_config.load import load_config
from flaxen.router_config.problems import ConfigError, Problem
from tests.router.test_requests import places
from tests.router_config.test_migration import FLAT, NEW, V01

OWN = Path(__file__).with_name("own.yaml").read_text("utf-8")
FILES = [yaml.safe_load(text) for text in (OWN, NEW, V01, FLAT)]
VALUES: list[Any] = [None, "", "x", 0, -1, 1e400, True, [], {}, [None], {"a": 1}, "$X", "${X:-}"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_a_file_is_read_or_refused_by_line(file: dict[str, Any], data: st.DataObject) -> None:
    changed = yaml.safe_load(yaml.safe_dump(file))
    where, key = data.draw(st.sampled_from(list(places(changed))))
    where[key] = data.draw(st.sampled_from(VALUES))
    text = yaml.safe_dump(changed)
    problems: tuple[Problem, ...] = ()
    try:
        load_config(text)
    except ConfigError as error:
        problems = error.problems
    num_lines = len(text.splitlines())
    assert [p for p in problems if not p.text or not 1 <= p.line <= num_lines] == []


def test_the_files_are_read_as_they_are() -> None:
    for file in FILES:
        load_config(yaml.safe_dump(file))
    with pytest.raises(ConfigError):
        load_config("[]")
