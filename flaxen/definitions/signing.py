"""Signs what this user's flaxen writes on this machine, to tell it from what others wrote.

A model's directory names code, which is run only if the name is signed (decision 0240). The key is
made at the first use, and never leaves the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_NUM_KEY_BYTES = 32


def key_file(find_home: Callable[[], Path] = Path.home) -> Path | None:
    """The file of the user's key, where the XDG convention keeps the state of programs by default.

    None for a user without a home, as in a container that runs under a number.
    """
    try:
        home = find_home()
    except RuntimeError:
        return None
    return home / ".local" / "state" / "flaxen" / "signing.key"


def sign(text: str, key_file: Path | None) -> str | None:
    """The signature of a text; None if there is no key, and none can be made.

    Args:
      text: what is signed.
      key_file: made if it does not exist, for its owner alone; None signs nothing.
    """
    if key_file is None:
        return None
    try:
        key = _read_or_make(key_file)
    except OSError:  # a home that can't be written
        return None
    return _signature(text, key) if _is_key(key) else None


def is_signed(text: str, signature: object, key_file: Path | None) -> bool:
    """Whether a signature of a text was made with the key; never without a key."""
    if key_file is None:
        return False
    try:
        key = key_file.read_bytes()
    except OSError:
        return False
    if not (_is_key(key) and isinstance(signature, str)):
        return False
    return hmac.compare_digest(signature.encode(), _signature(text, key).encode())


def _is_key(key: bytes) -> bool:
    """Whether a key is whole. Anybody could sign with one that a full disk has left empty."""
    return len(key) == _NUM_KEY_BYTES


def _signature(text: str, key: bytes) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _read_or_make(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    if not path.exists():
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_NUM_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(made, path)  # fails if another process was faster, whose key is then read
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return path.read_bytes()
