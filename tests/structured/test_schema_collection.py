"""Every output that a public schema's grammar lets end is valid; refusals name the keyword."""

from __future__ import annotations

from itertools import islice

from tests.server.fakes import byte_tokenizer
from tools.schema_collection import check, schemas


def test_outputs_of_public_schemas_are_valid() -> None:
    """A sample; tools/schema_collection.py checks all, with a real model's tokens."""
    sample = islice(schemas(), 0, None, 12)
    result = check(sample, byte_tokenizer(), walks=1, max_tokens=1500)
    assert result.invalid == []
    assert result.valid > 0.9 * result.finished > 10
    assert result.unfinished < result.finished
    assert result.accepted + result.refused.total() == result.schemas > 40
    words = ("keyword", "format", "oneOf", "$ref", "pattern", "Properties", "large", "characters")
    for reason in result.refused:
        assert any(word in reason for word in words), reason
