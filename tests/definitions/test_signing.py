"""The key that signs the names of code: where it is, and what happens without one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from flaxen.definitions.signing import is_signed, key_file, sign


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")  # as Path.home does


def test_a_user_without_a_home_signs_nothing_and_trusts_nothing() -> None:
    """A run in a container must not fail at its end, after hours, for want of a key."""
    assert key_file(_no_home) is None
    assert sign("text", None) is None
    assert not is_signed("text", None, None)


def test_a_home_that_cannot_be_written_signs_nothing(tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("a file, where a directory must be")
    key = key_file(lambda: tmp_path)
    assert key is not None
    assert sign("text", key) is None
    assert not is_signed("text", "", key)


def test_only_the_same_text_and_key_fit(tmp_path: Path) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    signature = sign("text", key)
    assert sign("text", other) != signature
    assert is_signed("text", signature, key)
    assert not is_signed("texts", signature, key)
    assert not is_signed("text", signature, other)


def test_a_key_that_is_not_whole_signs_nothing_and_trusts_nothing(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    forged = hmac.new(b"", b"text", hashlib.sha256).hexdigest()
    assert not is_signed("text", forged, key)
    assert sign("text", key) is None


def test_a_signature_of_any_text_is_refused(tmp_path: Path) -> None:
    """The name comes from a stranger's JSON."""
    key = tmp_path / "key"
    assert sign("text", key) is not None
    for signature in ("\xe9\u4e16", "", None, 3, ["a"]):
        assert not is_signed("text", signature, key)
