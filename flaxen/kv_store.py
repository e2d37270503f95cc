"""Opens the store of an engine's pages: with those of an earlier start, if that computed the same.

Deliberately does not know: when pages are stored, the format of the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax

from flaxen.definitions.definition import Definition
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.prepared import Prepared
from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import PageStore
from flaxen.weights.file_identity import file_identity

_DIR_BYTES = 10 * 2**30  # of a directory's files, if nothing else is asked for


@contextlib.contextmanager
def opened_store(prepared: Prepared) -> Iterator[PageStore | None]:
    """The store of `open_store`, which is closed if what uses it can't be built: another try would
    find its directory in use.
    """
    store = open_store(prepared)
    try:
        yield store
    except BaseException:
        if store is not None:
            store.close()
        raise


def open_store(prepared: Prepared) -> PageStore | None:
    """Opens the store that the arguments ask for; None if they ask for none.

    Raises:
      ValueError: the model's pages can't be stored, or the directory can't be used.
    """
    args = prepared.args
    if not args.stores_pages:
        return None
    name = "kv_offload_dir" if args.kv_offload_dir is not None else "kv_offload_bytes"
    if not args.enable_prefix_caching:
        raise ValueError(
            f"{name} stores pages for later prompts, and prefix caching is off: leave one out"
        )
    if not can_store(prepared):
        raise ValueError(
            f"{name} stores pages of keys and values, and {prepared.checkpoint.name} keeps none or "
            "has layers with a state, beside which no prefix is found: leave it out"
        )
    disk = None
    if args.kv_offload_dir is not None:
        folder = Path(args.kv_offload_dir).expanduser()
        most = args.kv_offload_dir_bytes or _DIR_BYTES
        disk = DiskTier(folder, _fingerprint(prepared), most)
    return PageStore(HostTier(args.kv_offload_bytes), disk)


def can_store(prepared: Prepared) -> bool:
    """Whether the model has pages of keys and values, from which prefixes are found."""
    groups = prepared.config.groups
    return bool(groups) and all(each.keeps_tokens for each in groups)


def _fingerprint(prepared: Prepared) -> str:
    """A hash of all that the bits of a page depend on beside its tokens, adapter and cache salt.

    Raises:
      ValueError: it can't be told.
    """
    checkpoint, args, config = prepared.checkpoint, prepared.args, prepared.config
    if isinstance(checkpoint, Definition) or prepared.path is None:
        raise ValueError(
            f"kv_offload_dir is for models in files, and {checkpoint.name} is a definition: what "
            "its code computes can't be told from its files. Use kv_offload_bytes"
        )
    model, length = prepared.models[0], None
    if config.max_model_len > checkpoint.model.max_position:
        length = config.max_model_len  # such a model has another rope for each length
    known = {
        "flaxen": version("flaxen"),
        "jax": jax.__version__,
        "code": [_modified(Path(__file__).parent), *_kernels(prepared.backend)],
        "files": file_identity(prepared.path),
        "model": [args.impl, args.quantization, repr(model.cache_specs), length],
        "dtypes": [prepared.dtype.name, prepared.cache_dtype.name],
        "backend": [prepared.backend.value, *_device()],
        "mesh": str(args.mesh_shape),
        "page_size": config.page_size,
        "lora": None if config.lora is None else dataclasses.asdict(config.lora),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _device() -> list[str]:
    """What computes, as far as bits may depend on it: another processor sums in other orders."""
    kind = jax.devices()[0].device_kind
    if kind != "cpu":
        return [kind]
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):  # what XLA compiles for
            return [kind, platform.machine(), line]
    return [kind, platform.machine()]


def _kernels(backend: Backend) -> list[str]:
    """The C++ kernels, if they compute, and their instruction set."""
    if backend is not Backend.CPU:
        return []
    library = Path(cpu_library.library()._name)
    return [hashlib.sha256(library.read_bytes()).hexdigest(), cpu_library.isa()]


def _modified(package: Path) -> int:
    """When the newest file of the package changed: a version under development has many."""
    return max(each.stat().st_mtime_ns for each in package.rglob("*.py"))
