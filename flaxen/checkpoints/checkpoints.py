"""Checkpoints of a training run: any pytree, saved beside the training by Orbax.

A checkpoint gets its step's name when all of it is written, so that a process killed at any moment
leaves the last complete one. Deliberately does not know what the tree means, or who trains.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_STEP = re.compile(r"\d+")
_LEFT_OVER = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleted)")
_ARRAYS, _INDEX = "arrays", "index"
_PLAIN = (bool, int, float, str)  # leaves that JSON keeps

Tree = Any
Json = Any


class Restored(NamedTuple):
    """What was saved, and after how many steps."""

    step: int
    tree: Tree
    extra: Json


class Checkpoints:
    """The checkpoints in a directory, for one process and one thread. Final.

    Args:
      directory: made if it is not there; each checkpoint is a directory in it. What a killed
        process left unfinished is removed.
      keep: how many of the newest stay, beside the one that is being saved.
      every: steps from one checkpoint to the next.

    Raises:
      ValueError: a number below 1.
    """

    def __init__(self, directory: Path, *, keep: int = 3, every: int = 1) -> None:
        for name, value in {"keep": keep, "every": every}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        for entry in self._directory.iterdir():
            if _LEFT_OVER.fullmatch(entry.name):
                shutil.rmtree(entry)
        self._keep, self._every = keep, every
        self._last: int | None = None  # saved or restored by this object
        self._checkpointer = ocp.AsyncCheckpointer(_handler())

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order."""
        return steps_in(self._directory)

    def save(self, step: int, tree: Tree, extra: Json = None, *, force: bool = False) -> bool:
        """Begins to save a tree, once the save before is complete.

        The tree's arrays may be donated or changed at once. Those of JAX are not copied: Orbax
        holds their buffers until they are written, and XLA never writes to a buffer that is held.

        Args:
          step: how many were made.
          tree: arrays of JAX (PRNG keys too) or NumPy, and Python's bool, int, float and str.
          extra: small and of JSON, of any structure: where the data are read next, for example.
          force: save also where `every` does not divide the step.

        Returns:
          Whether it is being saved: not between the steps, nor a step that this object has already
          saved or restored.

        Raises:
          ValueError: a leaf of another type, or a checkpoint of this step that another run made.
          Exception: what ended the save before, such as a full disk.
        """
        if step == self._last or (step % self._every and not force):
            return False
        path = self._directory / str(step)
        if path.exists():
            raise ValueError(
                f"{path} already exists, and this run did not make it: resume from the last "
                "checkpoint, or give an empty directory"
            )
        self.wait()
        arrays, leaves = _taken_apart(tree)
        index = {"version": 1, "step": step, "leaves": leaves, "extra": extra}
        self._checkpointer.save(
            path,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.StandardSave(arrays)} if arrays else {},
                **{_INDEX: ocp.args.JsonSave(index)},
            ),
        )
        self._last = step
        return True

    def wait(self) -> None:
        """Returns when the last save is complete, and no more than `keep` are there.

        Raises:
          Exception: what ended it, such as a full disk.
        """
        self._checkpointer.wait_until_finished()
        for step in self.steps()[: -self._keep]:
            path = self._directory / str(step)
            gone = path.with_name(f"{step}.deleted")
            path.rename(gone)  # first: what is named by a step is always whole
            shutil.rmtree(gone)

    def close(self) -> None:
        """Waits, and ends what saves. The object can't be used any more."""
        self.wait()
        self._checkpointer.close()

    def restore(self, template: Tree, step: int | None = None) -> Restored:
        """What was saved, in the form of a template.

        Args:
          template: the same structure, shapes and dtypes; leaves may be jax.ShapeDtypeStruct. An
            array comes back as JAX's, on the template's devices, or as NumPy's where the template
            has NumPy's.
          step: of the checkpoint; None is the last complete one.

        Raises:
          ValueError: there is no such checkpoint, or a leaf is missing, has no place in the
            template, or has another shape or dtype there; the message names it.
        """
        restored = restore(self._directory, template, step)
        self._last = restored.step
        return restored


def steps_in(directory: Path) -> list[int]:
    """The steps of the complete checkpoints in a directory, in order; none where there is none."""
    if not directory.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in directory.iterdir()
        if _STEP.fullmatch(entry.name) and _index_of(entry).is_file()
    )


def read_extra(directory: Path, step: int) -> Json:
    """What was saved beside the arrays of a complete checkpoint; no array is read."""
    return _read_index(directory.absolute() / str(step))["extra"]


def _read_index(path: Path) -> dict[str, Json]:
    index: dict[str, Json] = json.loads(_index_of(path).read_bytes())
    return index


def _index_of(path: Path) -> Path:
    return path / _INDEX / "metadata"


def restore(directory: Path, template: Tree, step: int | None = None) -> Restored:
    """As `Checkpoints.restore`, for who does not save: nothing in the directory is changed."""
    steps = steps_in(directory)
    if not steps:
        raise ValueError(f"{directory} has no complete checkpoint: start without resuming")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(
            f"{directory} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}"
        )
    path = directory.absolute() / str(step)
    index = _read_index(path)
    leaves = index["leaves"]
    flat, structure = jax.tree.flatten_with_path(template)
    named = {jax.tree_util.keystr(place): leaf for place, leaf in flat}
    try:
        _check_fits(leaves, named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Was it saved with another configuration?") from None
    arrays = _read_arrays(path, leaves)
    tree = jax.tree.unflatten(
        structure,
        # Each is let go once it is on the device: the host never holds all of them twice.
        [_as(leaf, leaves[name], arrays.pop(name, None)) for name, leaf in named.items()],
    )
    return Restored(step, tree, index["extra"])


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        **{_ARRAYS: ocp.StandardCheckpointHandler(), _INDEX: ocp.JsonCheckpointHandler()}
    )


def _taken_apart(tree: Tree) -> tuple[dict[str, jax.Array | np.ndarray], dict[str, Json]]:
    """The arrays that have values, and what the index says of each leaf, by its path."""
    arrays: dict[str, jax.Array | np.ndarray] = {}
    leaves: dict[str, Json] = {}
    for place, leaf in jax.tree.flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(place)
        if type(leaf) in _PLAIN:
            leaves[name] = {"value": leaf}
            continue
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise ValueError(
                f"the leaf {name} is a {type(leaf).__name__}: only arrays, bool, int, float and "
                "str can be saved"
            )
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[name]["key_impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        if leaf.size:  # Orbax refuses the others
            # NumPy's may be written while Orbax reads them; JAX's never are.
            arrays[name] = leaf if isinstance(leaf, jax.Array) else np.array(leaf)
    return arrays, leaves


def _check_fits(leaves: dict[str, Json], template: dict[str, Any]) -> None:
    for name, leaf in template.items():
        if name not in leaves:
            raise ValueError(f"the leaf {name} is missing, and is needed")
        saved = leaves[name]
        if type(leaf) in _PLAIN:
            wanted: Json = {"value": type(leaf).__name__}
            found = {"value": type(saved["value"]).__name__} if "value" in saved else saved
        else:
            wanted = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            found = {part: saved[part] for part in saved if part != "key_impl"}
        if found != wanted:
            raise ValueError(f"the leaf {name} has {_said(found)}, and {_said(wanted)} is needed")
    if leaves.keys() - template.keys():
        raise ValueError(f"the leaf {min(leaves.keys() - template.keys())} has no place")


def _said(leaf: dict[str, Json]) -> str:
    if "dtype" in leaf:
        return f"{leaf['dtype']}{leaf['shape']}"
    kind = leaf["value"] if isinstance(leaf["value"], str) else type(leaf["value"]).__name__
    return f"a Python {kind}"


def _read_arrays(path: Path, leaves: dict[str, Json]) -> dict[str, np.ndarray]:
    wanted = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in {
            name: _stored_as(leaf) for name, leaf in leaves.items() if "shape" in leaf
        }.items()
        if 0 not in shape
    }
    if not wanted:
        return {}
    on_host = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    handler = ocp.CompositeCheckpointHandler(**{_ARRAYS: ocp.PyTreeCheckpointHandler()})
    with ocp.Checkpointer(handler) as checkpointer:
        restored = checkpointer.restore(
            path,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.PyTreeRestore(item=wanted, restore_args=on_host)}
            ),
        )
    arrays: dict[str, np.ndarray] = restored[_ARRAYS]
    return arrays


def _stored_as(leaf: dict[str, Json]) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a leaf's array in the checkpoint: a key's data, for a PRNG key."""
    shape = tuple(leaf["shape"])
    if "key_impl" in leaf:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=leaf["key_impl"])))
        return shape + data.shape, data.dtype
    return shape, jnp.dtype(leaf["dtype"])


def _as(template: Any, saved: dict[str, Json], array: np.ndarray | None) -> Any:
    """A leaf in the template's form."""
    if "value" in saved:
        return saved["value"]
    if array is None:
        array = np.zeros(*_stored_as(saved))
    array = np.asarray(array)
    if isinstance(template, np.ndarray | np.generic):
        return array if isinstance(template, np.ndarray) else array[()]
    sharding = template.sharding if isinstance(template, jax.Array) else None
    # Not an alias of Orbax's memory: training donates it.
    on_device = jax.device_put(array, None if "key_impl" in saved else sharding, may_alias=False)
    if "key_impl" in saved:
        return jax.random.wrap_key_data(on_device, impl=saved["key_impl"])
    return on_device
