"""YAML as the file means it: lines, texts, and the environment's variables in them."""

from __future__ import annotations

import pytest

from flaxen.router.checks import seconds
from flaxen.router_config.items import Item, expand, parse_items, plain
from flaxen.router_config.problems import Problems


def test_values_keep_their_lines_and_texts() -> None:
    file = parse_items("a: no\nb:\n  - 0x1F\n  - '8'\nc: ~\n")
    assert file == Item(
        1,
        {
            "a": Item(1, "no"),
            "b": Item(3, [Item(3, "0x1F"), Item(4, "8", is_quoted=True)]),
            "c": Item(5, None),
        },
    )
    assert parse_items("") == Item(1, {})


def test_aliases_and_merged_mappings() -> None:
    file = parse_items("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert plain(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


def test_plain_data_has_the_types_that_are_written() -> None:
    file = parse_items("[1, -2.5, 1e3, true, 'true', yes, 1.2.3, '1', ~]")
    assert plain(file) == [1, -2.5, 1000.0, True, "true", "yes", "1.2.3", "1", None]


def test_variables_of_the_environment() -> None:
    text = "- $A b ${A}\n- ${E:-x}|${E-x}|${U:-x}|${U-x}|${U:-}\n- $$A $ $1 ^a$\n- ${N}\n- '${N}'\n"
    problems = Problems()
    items = expand(parse_items(text), {"A": "1", "E": "", "N": "7"}, problems)
    assert problems.found == []
    assert plain(items) == ["1 b 1", "x||x|x|", "$A $ $1 ^a$", 7, "7"]
    expand(parse_items("a: 1\nb: [$U]\nc: ${V}\n"), {}, problems)
    assert [(p.line, p.path) for p in problems.found] == [(2, "b[0]"), (3, "c")]
    assert problems.found[0].text.startswith("the variable U is not set in the environment: set it")


@pytest.mark.parametrize(
    ("text", "expected"), [("300s", 300), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400)]
)
def test_durations_as_go_writes_them(text: str, expected: float) -> None:
    assert seconds("timeout", text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "5 minutes", "1m-3s", "1.2.3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="timeout must be a duration"):
        seconds("timeout", text)
