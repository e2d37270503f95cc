"""Keeps what a process compiles for the next one, in a directory: JAX's own cache (decision 0252).

Whatever is wrong with the directory, nothing fails: the programs are compiled again. Imports JAX
only to set it, so that `flaxen doctor` can name the directory without it. Deliberately does not
know what is compiled.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

_LOG = logging.getLogger(__name__)
_NEVER_S = 10**9  # no program takes so long to compile, so none is written

CompileCache = Path | str | bool | None  # as `choose_compile_cache` takes it


def default_directory(environment: Mapping[str, str]) -> Path | None:
    """The directory of compiled programs that the commands and LLM share, by the XDG convention.

    Args:
      environment: the process's variables. FLAXEN_CACHE is the directory itself.

    Returns:
      The directory; None if the user has no home.
    """
    if own := environment.get("FLAXEN_CACHE"):
        return Path(own)
    root = environment.get("XDG_CACHE_HOME")
    try:
        return Path(root or Path.home() / ".cache") / "flaxen"
    except RuntimeError:  # no HOME, and no entry of the user
        return None


def choose_compile_cache(given: CompileCache, environment: Mapping[str, str]) -> None:
    """Sets the cache of the whole process.

    Args:
      given: a directory; None or True is JAX's own setting if there is one, else
          `default_directory`; False changes nothing.
      environment: the process's variables.
    """
    if given is False:
        return
    if isinstance(given, str | Path):
        use_compile_cache(Path(os.path.expanduser(given)))
    elif _current() is None:
        directory = default_directory(environment)
        if directory is not None:
            use_compile_cache(directory)


def use_compile_cache(directory: Path) -> None:
    """Keeps the process's compiled programs in a directory, for the next process.

    Also those that compile fast, because they add up at each start. A directory that can't be
    written to is read; one that can't be made is left out with a warning.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    can_write = _can_write(directory)
    if not can_write and not directory.is_dir():
        return
    if _current() != str(directory):
        jax.config.update("jax_compilation_cache_dir", str(directory))
        compilation_cache.reset_cache()  # JAX decides at its first compilation what it uses
    min_s = 0 if can_write else _NEVER_S
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_s)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _current() -> str | None:
    """The directory that JAX is set to; None for none."""
    import jax

    directory: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return directory


def _can_write(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _LOG.warning(
            "compiled programs are not kept, so each start compiles them again: %s: %s. Choose "
            "another directory (compile_cache, --compile-cache)",
            directory,
            error.strerror or error,
        )
        return False
    return os.access(directory, os.W_OK | os.X_OK)
