"""A template mentions a variable by its whole name, not by a field of that name."""

from __future__ import annotations

import pytest

from flaxen.text.mentions import mentions


@pytest.mark.parametrize(
    ("template", "is_mentioned"),
    [
        ("{% if thinking %}", True),
        ("{{ thinking.text }}", True),
        ("{{ message.thinking }}", False),
        ("{{ enable_thinking }}{{ thinkings }}", False),
        (None, False),
    ],
)
def test_whole_names_count(template: str | None, is_mentioned: bool) -> None:
    assert mentions(template, "thinking") == is_mentioned
