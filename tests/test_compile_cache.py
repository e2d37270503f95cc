"""Compiled programs are kept for the next process, and no directory makes anything fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxen.compile_cache import choose_compile_cache, default_directory, use_compile_cache

_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """The process's own settings come back after each test."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def current() -> str | None:
    directory: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return directory


def compile_something(number: int) -> float:
    return float(jax.jit(lambda x: x * number + 1)(jnp.float32(2)))


def entries(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if "lambda" in path.name]


def test_the_default_follows_xdg() -> None:
    assert default_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/flaxen")
    assert default_directory({"FLAXEN_CACHE": "/own", "XDG_CACHE_HOME": "/x"}) == Path("/own")
    assert default_directory({}) == Path.home() / ".cache" / "flaxen"


def test_what_compiles_fast_is_kept_too_even_after_the_first_compilation(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    assert compile_something(1733) == 3467
    choose_compile_cache(None, {"XDG_CACHE_HOME": str(tmp_path)})
    assert compile_something(1741) == 3483
    assert len(entries(tmp_path / "flaxen")) == 1


def test_a_cache_that_jax_is_set_to_is_kept_and_a_given_one_wins(tmp_path: Path) -> None:
    own = current()
    assert own is not None  # tests share one
    choose_compile_cache(None, {"XDG_CACHE_HOME": str(tmp_path)})
    choose_compile_cache(False, {"XDG_CACHE_HOME": str(tmp_path)})
    assert current() == own
    choose_compile_cache(tmp_path / "given", {})
    assert current() == str(tmp_path / "given")


def test_false_leaves_jax_without_a_cache(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    choose_compile_cache(False, {"XDG_CACHE_HOME": str(tmp_path)})
    assert current() is None


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache entry")
def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    use_compile_cache(tmp_path)
    assert compile_something(1747) == 3495
    for path in entries(tmp_path):
        path.write_bytes(b"no program")
    jax.clear_caches()
    assert compile_something(1747) == 3495


def test_a_directory_that_can_not_be_made_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    own = current()
    with caplog.at_level(logging.WARNING):
        use_compile_cache(tmp_path / "file" / "cache")
    assert "compiled programs are not kept" in caplog.text
    assert current() == own
