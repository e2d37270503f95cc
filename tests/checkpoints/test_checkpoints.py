"""Checkpoints of a training run: to the bit, whole or not there, and errors that name the leaf."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.checkpoints.reading import restore, steps_in


class State(NamedTuple):
    params: Any
    opt_state: Any
    key: jax.Array
    step: int


def make_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    params = {
        "layers": ({"a/b": jnp.asarray(rng.normal(size=(5, 3)), jnp.bfloat16)},),
        "embed": jnp.asarray(rng.normal(size=(7, 2)), jnp.float32),
    }
    return State(params, optax.adamw(1e-3).init(params), jax.random.key(seed), 41)


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b)
        if isinstance(a, jax.Array):
            assert a.dtype == b.dtype
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                assert jax.random.key_impl(a) == jax.random.key_impl(b)
                a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_a_training_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    state, extra = make_state(), {"file": "a.jsonl", "at": [1, 2], "lr": 0.1}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(41, state, extra)
    assert_same(restore(tmp_path, state).tree, state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(seed=1))
    assert (restored.step, restored.extra) == (41, extra)
    assert_same(restored.tree, state)


def test_every_kind_of_leaf(tmp_path: Path) -> None:
    tree = {
        "numpy": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.float32(0.1),
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "nothing": jnp.zeros((0, 4), jnp.int32),
        "keys": jax.random.split(jax.random.key(3, impl="rbg"), 2),
        "plain": (True, 2**80, float("inf"), "ü", None),
        "nan": jnp.asarray([jnp.nan, -0.0]),
    }
    with Checkpoints(tmp_path / "made" / "here") as checkpoints:
        checkpoints.save(0, tree)
        checkpoints.wait()
        assert_same(checkpoints.restore(tree).tree, tree)


def test_templates_may_be_shapes_only(tmp_path: Path) -> None:
    state = make_state()._replace(step=jnp.asarray(4))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state)
    assert_same(restore(tmp_path, jax.eval_shape(lambda: state)).tree, state)


def test_a_tree_without_arrays(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"n": 3})
    assert restore(tmp_path, {"n": 0}).tree == {"n": 3}


@partial(jax.jit, donate_argnums=0)
def overwrite(tree: Any) -> Any:
    return jax.tree.map(lambda x: x * 0 - 1, tree)


def test_what_is_being_saved_may_be_donated_and_written(tmp_path: Path) -> None:
    device = {f"{i}": jnp.arange(200_000.0) + i for i in range(20)}
    host = np.arange(1_000_000.0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"device": device, "host": host})
            # Donated while they are written, as by the next step of a training.
            assert all((jax.block_until_ready(overwrite(device))["7"] == -1).tolist())
            host[:] = -step
            device = {f"{i}": jnp.arange(200_000.0) + i + step for i in range(20)}
    for step, first in ((1, 0), (2, -1), (3, -2)):
        template = {"device": jax.tree.map(jnp.zeros_like, device), "host": host}
        restored = restore(tmp_path, template, step).tree
        for i in range(20):
            expected = np.arange(200_000.0) + i + step - 1
            np.testing.assert_array_equal(restored["device"][f"{i}"], expected)
        expected = np.arange(1_000_000.0) if step == 1 else np.full(1_000_000, first)
        np.testing.assert_array_equal(restored["host"], expected)


def test_what_comes_back_can_be_donated(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(1_000_000.0)})
    restored = restore(tmp_path, {"x": jnp.zeros(1_000_000)}).tree
    np.testing.assert_array_equal(restored["x"], np.arange(1_000_000.0))
    np.testing.assert_array_equal(overwrite(restored)["x"], np.full(1_000_000, -1.0))
    assert restored["x"].is_deleted()  # nobody else held its memory, which is used again


def test_every_and_keep(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2, every=3) as checkpoints:
        saved = [step for step in range(1, 11) if checkpoints.save(step, {"n": step})]
        assert saved == [3, 6, 9]
        assert checkpoints.save(10, {"n": 10}, force=True)
        assert not checkpoints.save(10, {"n": 10}, force=True)  # it is there
        checkpoints.wait()
        assert checkpoints.steps() == [9, 10]
        assert checkpoints.restore({"n": 0}, step=9).tree == {"n": 9}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "9"]


def test_a_restored_step_is_not_saved_again(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, {"n": 5})
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"5 already exists, and this run did not make it"):
            checkpoints.save(5, {"n": 6})
        checkpoints.restore({"n": 0})
        assert not checkpoints.save(5, {"n": 5})


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, {"n": 5})
    for name in ("6.part", "4.deleted"):
        shutil.copytree(tmp_path / "5", tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert steps_in(tmp_path) == [5]
    assert restore(tmp_path, {"n": 0}).step == 5
    with Checkpoints(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "notes"]


def test_a_save_that_fails_leaves_the_last_complete_one(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": np.zeros(10_000)})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as on a full disk
        try:
            checkpoints.save(2, {"x": np.ones(10_000)})
            with pytest.raises(
                OSError, match=r"2\.part/arrays\.safetensors can't be written: .*I/O"
            ):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["1"]  # the disk has its room again
        checkpoints.save(3, {"x": np.ones(10_000)})
    assert steps_in(tmp_path) == [1, 3]


def test_a_directory_that_is_called_by_a_number_is_not_a_checkpoint(tmp_path: Path) -> None:
    for name in ("1", "2026"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.steps() == []
        for step in (5, 6, 7):
            assert checkpoints.save(step, {"n": step})
        checkpoints.wait()
        assert checkpoints.steps() == [7]
        with pytest.raises(ValueError, match=r"2026 already exists, and this run did not make it"):
            checkpoints.save(2026, {"n": 0})
    assert restore(tmp_path, {"n": 0}).step == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2026", "7"]
    assert (tmp_path / "1" / "thesis.txt").read_text() == "mine"


TEMPLATE = {"w": jnp.zeros((2, 3)), "n": 1, "key": jax.random.key(0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": jnp.zeros((2, 4))}, r"leaf \['w'\] has float32\[2, 3\], and float32\[2, 4\] is nee"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16)}, r"has float32\[2, 3\], and bfloat16\[2, 3\] is"),
        ({"w": 0.5}, r"leaf \['w'\] has float32\[2, 3\], and a Python float is needed"),
        ({"n": jnp.zeros(())}, r"leaf \['n'\] has a Python int, and float32\[\] is needed"),
        ({"n": 1.0}, r"leaf \['n'\] has a Python int, and a Python float is needed"),
        ({"key": jnp.zeros(2, jnp.uint32)}, r"has key<fry>\[\], and uint32\[2\] is needed"),
        ({"v": jnp.zeros(3)}, r"leaf \['v'\] is missing, and is needed\. Was it saved with anoth"),
        ({"w": None}, r"12: the leaf \['w'\] has no place"),
    ],
)
def test_a_template_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(12, TEMPLATE)
    with pytest.raises(ValueError, match=message):
        restore(tmp_path, {**TEMPLATE, **changes})


@pytest.mark.parametrize("name", ["index.json", "arrays.safetensors"])
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]])
def test_a_damaged_checkpoint_says_what_to_delete(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": np.full(1000, step)})
    file = tmp_path / "2" / name
    file.write_bytes(damage(file.read_bytes()))
    template = {"x": np.zeros(1000, np.int64)}
    with pytest.raises(ValueError, match=rf"2/{name} is damaged \(.*delete the directory .*/2, "):
        restore(tmp_path, template)
    shutil.rmtree(file.parent)
    assert restore(tmp_path, template).step == 1


def test_what_is_not_there_and_what_can_not_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing has no complete checkpoint: start without"):
        restore(tmp_path / "nothing", {})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"n": 3})
        checkpoints.wait()
        with pytest.raises(ValueError, match="has no checkpoint of step 4: it has 3"):
            checkpoints.restore({"n": 0}, step=4)
        with pytest.raises(ValueError, match=r"the leaf \['f'\] is a function: only arrays, bool"):
            checkpoints.save(4, {"f": make_state})
    for options in ({"keep": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            Checkpoints(tmp_path, **options)
