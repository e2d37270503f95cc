"""Deletes models that were pulled, and nothing else.

In Hugging Face's cache the client decides which files no other revision needs.
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.hub.inventory import in_models_dir, list_models, scan
from flaxen.hub.names import NAMED, HubModel, PackagedModel, parse_hub_name
from flaxen.hub.places import Places
from flaxen.hub.selection import is_gguf_model, is_selected
from flaxen.hub.targets import STAGING, cached_repo, directory_of

if TYPE_CHECKING:
    from huggingface_hub import CachedFileInfo, CachedRevisionInfo


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What would be deleted, before it is."""

    name: str
    path: Path
    size: int  # the bytes that become free
    carry_out: Callable[[], None]


def plan_removal(name: str, places: Places) -> Removal:
    """Finds what a name means here: in the directory of models, or else in the cache.

    Raises:
      ValueError: there is no such model, or it is not flaxen's to delete.
    """
    named = NAMED.get(name)
    if isinstance(named, PackagedModel):
        raise ValueError(
            f"{name} is a file of the Python package {named.package}, which pip removes: "
            f"`pip uninstall {named.package.replace('_', '-')}`"
        )
    if places.models_dir is not None and (found := _in_models_dir(name, places.models_dir)):
        return found
    model = parse_hub_name(name)
    found = None if model is None else _in_cache(name, model, places.cache)
    if found is not None:
        return found
    path = Path(os.path.expanduser(name))
    if path.exists():
        raise ValueError(
            f"{path.absolute()} is a path of your own, and flaxen deletes only what it pulled, by "
            "the names that `flaxen list` shows: delete it yourself"
        )
    names = [each.name for each in list_models(places)]
    near = difflib.get_close_matches(name, names, n=1)
    raise ValueError(
        f"there is no model {name!r} here"
        + (f": did you mean {near[0]}?" if near else ": `flaxen list` shows those that are")
    )


def _in_models_dir(name: str, models_dir: Path) -> Removal | None:
    path = _found_in(name, models_dir)
    if path is None:
        return None
    return Removal(
        name=name,
        path=path,
        size=_size_of(path),
        carry_out=lambda: _delete(path, models_dir),
    )


def _found_in(name: str, models_dir: Path) -> Path | None:
    """The directory or file of a model; never a directory that only has models in it."""
    model = parse_hub_name(name)
    directory = None if model is None else directory_of(models_dir, model)
    if model is not None and directory is not None and directory.is_dir():
        own = [each for each in directory.iterdir() if each.is_file() or each.name == STAGING]
        if model.selector is None and own:
            return directory
        for path in directory.rglob("*.gguf"):
            if model.selector and is_selected(path.name, model.selector):
                return path
    return next((each.path for each in in_models_dir(models_dir) if each.name == name), None)


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.lstat().st_size for file in files)


def _delete(path: Path, models_dir: Path) -> None:
    """Deletes a file or directory, and the directories above it that are empty then."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    for parent in path.parents:
        if parent == models_dir or any(parent.iterdir()):
            break
        parent.rmdir()


def _in_cache(name: str, model: HubModel, cache: Path) -> Removal | None:
    directory = cached_repo(cache, model)
    info = scan(cache)
    if info is None or not directory.is_dir():
        return None
    repo = next((each for each in info.repos if each.repo_path == directory), None)
    if repo is None:  # unfinished downloads and nothing else
        return Removal(
            name=name,
            path=directory,
            size=_size_of(directory),
            carry_out=lambda: shutil.rmtree(directory),
        )
    revisions = [each for each in repo.revisions if _is_meant(each, model.revision, name)]
    files = [file for each in revisions for file in _selected(each, model.selector)]
    if not revisions or (model.selector and not files):
        return None
    if model.selector and any(_others(each, model.selector) for each in repo.revisions):
        strategy = info.delete_files(*files)
        left = 0
    else:
        strategy = info.delete_revisions(*(each.commit_hash for each in revisions))
        left = sum(
            each.size_on_disk
            for each in info.incomplete_files
            if strategy.repos and directory in each.file_path.parents
        )
    return Removal(
        name=name,
        path=directory,
        size=strategy.expected_freed_size + left,
        carry_out=strategy.execute,
    )


def _is_meant(revision: CachedRevisionInfo, wanted: str, name: str) -> bool:
    """Whether a name means a revision; one without a revision means all."""
    return "@" not in name or wanted in revision.refs or revision.commit_hash.startswith(wanted)


def _selected(revision: CachedRevisionInfo, selector: str | None) -> list[CachedFileInfo]:
    return [
        file
        for file in revision.files
        if selector and is_gguf_model(file.file_name) and is_selected(file.file_name, selector)
    ]


def _others(revision: CachedRevisionInfo, selector: str) -> list[CachedFileInfo]:
    """The weights of a revision's other models."""
    return [
        file
        for file in revision.files
        if file.file_name.endswith((".gguf", ".safetensors"))
        and not is_selected(file.file_name, selector)
    ]
