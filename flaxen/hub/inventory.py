"""Lists the models on this machine: in Hugging Face's cache, a directory of models, and packages.

Deliberately reads no weights: what a model is, its file names and config.json say.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flaxen.hub.names import NAMED, HubModel, PackagedModel
from flaxen.hub.places import Places
from flaxen.hub.run_directory import model_in
from flaxen.hub.selection import is_gguf_model, quantization_of
from flaxen.hub.targets import STAGING
from flaxen.hub.weight_files import DESCRIPTION, INDEX, SINGLE, missing_files, read_json

if TYPE_CHECKING:
    from huggingface_hub import CachedRevisionInfo, HFCacheInfo

Kind = Literal["safetensors", "GGUF", "definition", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model on this machine, or an unfinished download of one."""

    name: str  # for MODEL
    kind: Kind
    format: str | None  # quantization or dtype of its weights, if names or config.json say
    size: int  # bytes on disk
    modified: float  # seconds since the epoch
    path: Path  # its file or directory


def list_models(places: Places) -> list[LocalModel]:
    """Lists the models that `resolve` finds without the network, by name."""
    found = [*_packaged(), *in_cache(places.cache)]
    if places.models_dir is not None:
        found += in_models_dir(places.models_dir)
    return sorted(found, key=lambda model: (model.name.lower(), model.path))


def find_packaged(named: PackagedModel) -> Path | None:
    """The file or directory of a packaged model, or None. The package's code is not run."""
    spec = importlib.util.find_spec(named.package)  # does not import a top-level package
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / named.file).exists():
            return Path(location) / named.file
    return None


def _packaged() -> Iterator[LocalModel]:
    for name, named in NAMED.items():
        if isinstance(named, PackagedModel) and (path := find_packaged(named)):
            yield _of_directory(name, path) if path.is_dir() else _gguf(name, path)


def scan(cache: Path) -> HFCacheInfo | None:
    """What the client knows of Hugging Face's cache; None if there is no cache."""
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(cache) if cache.is_dir() else None


def in_cache(cache: Path) -> Iterator[LocalModel]:
    """Lists the models of Hugging Face's cache, and unfinished downloads in it."""
    info = scan(cache)
    if info is None:
        return
    linked = set()
    for repo in info.repos:
        for revision in repo.revisions:
            linked |= {file.blob_path for file in revision.files}
            if repo.repo_type == "model":
                yield from _of_revision(repo.repo_id, revision)
    for directory in cache.glob("models--*"):
        left = [path for path in directory.glob("blobs/*") if path not in linked]
        if left:
            name = directory.name.removeprefix("models--").replace("--", "/")
            yield _incomplete(name, directory, left)


def _of_revision(repo: str, revision: CachedRevisionInfo) -> Iterator[LocalModel]:
    named = sorted(revision.refs, key=lambda ref: (ref != "main", ref))
    at = named[0] if named else revision.commit_hash[:12]
    names = {file.file_name for file in revision.files}
    if SINGLE in names or INDEX in names:
        paths = [file.file_path for file in revision.files]
        yield _safetensors(str(HubModel(repo, None, at)), revision.snapshot_path, paths)
    for file in revision.files:
        name = file.file_path.relative_to(revision.snapshot_path).as_posix()
        if is_gguf_model(name):
            selector = quantization_of(name) or name
            yield _gguf(str(HubModel(repo, selector, at)), file.file_path)


def in_models_dir(models_dir: Path) -> Iterator[LocalModel]:
    """Lists the models of a directory of models, and unfinished downloads in it."""
    for root, directories, files in os.walk(models_dir):
        directory = Path(root)
        relative = directory.relative_to(models_dir)
        if STAGING in directories:
            left = [path for path in (directory / STAGING).iterdir() if path.is_file()]
            if left:
                yield _incomplete(relative.as_posix(), directory / STAGING, left)
        if (model := model_in(directory)) != directory:  # a run of flaxen train
            directories[:] = []
            yield _of_directory(relative.as_posix(), model)
            continue
        directories[:] = [name for name in directories if not name.startswith(".")]
        if relative.parts and not {"config.json", DESCRIPTION}.isdisjoint(files):
            yield _of_directory(relative.as_posix(), directory)
        for name in filter(is_gguf_model, files):
            yield _gguf(_name_of_gguf(relative, name, files), directory / name)


def _of_directory(name: str, directory: Path) -> LocalModel:
    found = _safetensors(name, directory, directory.glob("*"))
    is_definition = (directory / DESCRIPTION).is_file()
    return replace(found, kind="definition") if is_definition else found


def _name_of_gguf(relative: Path, name: str, files: list[str]) -> str:
    """The shortest name by which `find_in_models_dir` finds a GGUF file."""
    if not relative.parts:
        return Path(name).stem
    if len(relative.parts) == 1:  # a directory of one's own
        is_alone = sum(map(is_gguf_model, files)) == 1 and "config.json" not in files
        return relative.as_posix() if is_alone else (relative / name).as_posix()
    repo = "/".join(relative.parts[:2])
    return f"{repo}:{quantization_of(name) or Path(*relative.parts[2:], name).as_posix()}"


def _gguf(name: str, path: Path) -> LocalModel:
    return LocalModel(
        name=name,
        kind="GGUF",
        format=quantization_of(path.name),
        size=path.stat().st_size,
        modified=path.stat().st_mtime,
        path=path,
    )


def _safetensors(name: str, directory: Path, paths: Iterable[Path]) -> LocalModel:
    stats = [path.stat() for path in paths if path.is_file()]
    return LocalModel(
        name=name,
        kind="incomplete" if missing_files(directory) else "safetensors",
        format=_dtype(directory / "config.json"),
        size=sum(stat.st_size for stat in stats),
        modified=max(stat.st_mtime for stat in stats),
        path=directory,
    )


def _dtype(config: Path) -> str | None:
    fields = read_json(config) if config.is_file() else {}
    quantization = fields.get("quantization_config")
    if isinstance(quantization, dict) and isinstance(quantization.get("quant_method"), str):
        return str(quantization["quant_method"])
    dtype = fields.get("dtype") or fields.get("torch_dtype")
    return dtype if isinstance(dtype, str) else None


def _incomplete(name: str, directory: Path, paths: list[Path]) -> LocalModel:
    stats = [path.stat() for path in paths]
    return LocalModel(
        name=name,
        kind="incomplete",
        format=None,
        size=sum(stat.st_size for stat in stats),
        modified=max((stat.st_mtime for stat in stats), default=directory.stat().st_mtime),
        path=directory,
    )
