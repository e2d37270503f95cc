"""A training state on a mesh is saved in pieces, and comes back on any other mesh to the bit."""

from __future__ import annotations

import functools
import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.checkpoints.pieces import take_apart
from flaxen.checkpoints.reading import restore, steps_in
from flaxen.checkpoints.writing import write_checkpoint
from flaxen.models.layout import param_shardings
from flaxen.sharding.placement import Placement
from flaxen.sharding.processes import Processes
from tests.engine.tiny import MODEL, PARAMS
from tests.mesh.meshes import placement
from tests.mesh.test_loading import read_so_far

SAVED_ON = "tensor=2,fsdp=2"


class State(NamedTuple):
    params: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array


def on_mesh(state: State, on: Placement) -> State:
    """The state, with the moments of its optimizer where their parameters are."""
    where = param_shardings(MODEL.param_specs, on)
    return State(
        jax.device_put(state.params, where),
        optax.tree.map_params(
            optax.adamw(1e-3),
            lambda leaf, sharding: jax.device_put(leaf, sharding),
            state.opt_state,
            where,
            transform_non_params=lambda leaf: jax.device_put(leaf, on.replicated),
        ),
        jax.device_put(state.key, on.replicated),
        jax.device_put(state.step, on.replicated),
    )


@functools.cache
def whole_state(seed: int = 0) -> State:
    """A state on one device."""
    optimizer = optax.adamw(1e-3)
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        (PARAMS, optimizer.init(PARAMS)),
    )
    return State(*state, jax.random.key(seed), jnp.int32(7))


@functools.cache
def on_another(mesh: str, seed: int = 1) -> State:
    """A template: other values, on a mesh or on one device."""
    state = whole_state(seed)
    return on_mesh(state, placement(mesh)) if mesh else state


def assert_same(found: State, template: State) -> None:
    """The saved values, where the template is."""
    expected, place = jax.tree.leaves(whole_state()), jax.tree.leaves(template)
    for one, other, where in zip(jax.tree.leaves(found), expected, place, strict=True):
        assert one.sharding.is_equivalent_to(where.sharding, one.ndim)
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state that was saved on a mesh."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(7, on_mesh(whole_state(), placement(SAVED_ON)), {"at": 3})
    return directory


@pytest.mark.parametrize("mesh", [SAVED_ON, "data=4", "tensor=4", "fsdp=8", ""])
def test_a_state_moves_to_another_mesh(saved: Path, mesh: str) -> None:
    template = on_another(mesh)
    found = restore(saved, template)
    assert (found.step, found.extra) == (7, {"at": 3})
    assert_same(found.tree, template)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), template
    )
    assert_same(restore(saved, shapes).tree, template)


@pytest.mark.parametrize("mesh", ["tensor=2,fsdp=2", "fsdp=8"])
def test_a_state_of_one_device_moves_to_a_mesh(tmp_path: Path, mesh: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, whole_state())
    assert sorted(each.name for each in (tmp_path / "7").iterdir()) == [
        "arrays.safetensors",
        "index.json",
    ]
    assert_same(restore(tmp_path, on_another(mesh)).tree, on_another(mesh))


def test_each_value_is_written_once(saved: Path) -> None:
    assert sorted(each.name for each in (saved / "7").iterdir()) == [
        "arrays-00000-of-00001.safetensors",
        "index.json",
    ]
    arrays = load_file(saved / "7" / "arrays-00000-of-00001.safetensors")
    state = whole_state()._replace(key=jax.random.key_data(whole_state().key))
    leaves = jax.tree.leaves(state)
    assert sum(each.nbytes for each in arrays.values()) == sum(each.nbytes for each in leaves)


def test_a_state_on_a_mesh_may_be_donated_and_comes_back_donatable(tmp_path: Path) -> None:
    state = on_mesh(whole_state(), placement(SAVED_ON))
    negate = jax.jit(lambda tree: jax.tree.map(lambda leaf: -leaf, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (7, 8):
            checkpoints.save(step, state)
            state = state._replace(params=jax.block_until_ready(negate(state.params)))
    found = restore(tmp_path, on_another("tensor=4"), 7).tree
    assert_same(found, on_another("tensor=4"))
    negated = negate(found.params)
    assert jax.tree.leaves(found.params)[0].is_deleted()
    jax.tree.map(
        np.testing.assert_array_equal, negated, jax.tree.map(jnp.negative, whole_state().params)
    )


def test_only_what_a_device_needs_is_read(tmp_path: Path) -> None:
    table = jax.device_put(np.ones((512, 1024), np.float32), placement("tensor=8").sharding(
        ("vocab", "model"), (512, 1024)
    ))  # fmt: skip
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"table": table})
    half = placement("tensor=4").sharding(("model", "vocab"), (512, 1024))  # by columns
    template = {"table": jax.ShapeDtypeStruct((512, 1024), jnp.float32, sharding=half)}
    before = read_so_far()
    restore(tmp_path, template)
    assert read_so_far() - before < 1.05 * table.nbytes


TWO = [Processes(index=index, count=2, of=lambda device: device.id // 2) for index in (0, 1)]


def save_by_two(directory: Path, state: Any, step: int = 7) -> None:
    """Saves as two processes do, each with half of the devices, and with arrays of its own: JAX
    makes the list of an array's shards when it is first asked, by one thread. Neither saves before
    both have opened the directory: in a run, the first step makes each wait for the other.
    """
    opened = threading.Barrier(len(TWO), timeout=60)

    def save(processes: Processes, own: Any) -> None:
        with Checkpoints(directory, processes=processes) as checkpoints:
            opened.wait()
            checkpoints.save(step, own, {"at": 3})

    def copy(leaf: Any) -> Any:
        return leaf.copy() if isinstance(leaf, jax.Array) else leaf

    states = [jax.tree.map(copy, state) for _ in TWO]
    threads = [threading.Thread(target=save, args=each) for each in zip(TWO, states, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("mesh", ["fsdp=2,tensor=2", "tensor=4"])
def test_each_process_writes_its_own_pieces(tmp_path: Path, mesh: str) -> None:
    save_by_two(tmp_path, on_mesh(whole_state(), placement(mesh)))
    names = [f"arrays-0000{n}-of-00002.safetensors" for n in (0, 1)]
    assert sorted(each.name for each in (tmp_path / "7").iterdir()) == [*names, "index.json"]
    sizes = [(tmp_path / "7" / name).stat().st_size for name in names]
    assert min(sizes) > 0.9 * max(sizes)
    for template in (on_another(""), on_another("data=4"), on_another("tensor=2,fsdp=4")):
        assert_same(restore(tmp_path, template).tree, template)


def test_a_stage_of_another_process_is_saved(tmp_path: Path) -> None:
    stages = placement("pipeline=2,tensor=2")
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    layers = tuple(
        jax.device_put(values + index, stages.stage(index).sharding((None, "mlp"), values.shape))
        for index in (0, 1)
    )
    save_by_two(tmp_path, {"layers": layers, "step": jnp.int32(3)})
    template = {"layers": (values, values), "step": jnp.int32(0)}
    restored = restore(tmp_path, template).tree
    for index, layer in enumerate(restored["layers"]):
        np.testing.assert_array_equal(layer, values + index)
    files = [load_file(each) for each in sorted((tmp_path / "7").glob("*.safetensors"))]
    assert [sum(each.size for each in file.values()) for file in files] == [9, 8]


def test_a_process_that_does_not_come_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    state = on_mesh(whole_state(), placement("tensor=4"))
    save_by_two(tmp_path, state)
    for processes, missing in zip(
        TWO, ("arrays-00001-of-00002", "arrays-00000-of-00002"), strict=True
    ):
        with pytest.raises(
            OSError, match=rf"8\.part is not complete after 0\.1 s: {missing}.* did not come"
        ):
            write_checkpoint(
                tmp_path / "8", take_apart(state, processes), {}, processes, patience_s=0.1
            )
    assert steps_in(tmp_path) == [7]


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    state = on_mesh(whole_state(), placement("tensor=4"))
    blocked = tmp_path / "8.part" / "arrays-00001-of-00002.safetensors.writing"
    blocked.mkdir(parents=True)  # process 1 can't write its file
    errors: dict[int, str] = {}

    def save(processes: Processes) -> None:
        try:
            write_checkpoint(tmp_path / "8", take_apart(state, processes), {}, processes)
        except OSError as error:
            errors[processes.index] = str(error)

    first = threading.Thread(target=save, args=(TWO[0],))
    first.start()
    while not (blocked.parent / "arrays-00000-of-00002.safetensors").exists():
        pass
    save(TWO[1])
    first.join()
    assert "arrays-00001-of-00002.safetensors.writing can't be written" in errors[1]
    assert "8.part was given up by another process" in errors[0]
    assert steps_in(tmp_path) == []


def copy_of(saved: Path, to: Path) -> Path:
    (to / "7").mkdir()
    for file in (saved / "7").iterdir():
        (to / "7" / file.name).write_bytes(file.read_bytes())
    return to / "7" / "arrays-00000-of-00001.safetensors"


def test_a_missing_or_damaged_piece_says_what_to_do(saved: Path, tmp_path: Path) -> None:
    file = copy_of(saved, tmp_path)
    whole, arrays = file.read_bytes(), load_file(file)
    file.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"of-00001\.safetensors is damaged \(.*delete the direc"):
        restore(tmp_path, on_another("tensor=4"))
    name = next(each for each in arrays if "#" in each)
    save_file({**arrays, name: arrays[name][:1]}, file)
    with pytest.raises(ValueError, match=r"is damaged \(.* has the shape .*, and the index says"):
        restore(tmp_path, on_another("tensor=4"))
    file.unlink()
    with pytest.raises(ValueError, match=r"of-00001\.safetensors is missing, and the checkpoint n"):
        restore(tmp_path, on_another("tensor=4"))
    index = json.loads((tmp_path / "7" / "index.json").read_text())
    leaf = next(each for each in index["leaves"].values() if len(each.get("parts", ())) > 1)
    leaf["parts"].pop(0)
    (tmp_path / "7" / "index.json").write_text(json.dumps(index))
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"index\.json is damaged \(the parts of .* are not all"):
        restore(tmp_path, on_another("tensor=4"))
