"""Finds a model of the hub on this machine, and says what is missing of it.

Deliberately never asks the network.
"""

from __future__ import annotations

from pathlib import Path

from flaxen.hub.names import HubModel, parse_hub_name
from flaxen.hub.places import Places
from flaxen.hub.selection import RepoFile, select_files
from flaxen.hub.targets import STAGING, cached_repo, directory_of, snapshot_of
from flaxen.hub.weight_files import missing_files


def find_in_models_dir(name: str, models_dir: Path) -> Path | None:
    """Finds NAME in a directory of models: NAME/, NAME.gguf, or what `flaxen pull` put there."""
    if not Path(name).is_absolute() and ".." not in Path(name).parts:
        for path in (models_dir / name, models_dir / f"{name}.gguf"):
            if path.is_file() and path.suffix == ".gguf":
                return path
            if path.is_dir() and any(each.is_file() for each in path.iterdir()):
                return _in_directory(path, HubModel(name)) or path
    model = parse_hub_name(name)
    return None if model is None else _in_directory(directory_of(models_dir, model), model)


def find_downloaded(model: HubModel, places: Places) -> Path | None:
    """Finds a model in the directory of models or in Hugging Face's cache; None if it is not
    complete.
    """
    if places.models_dir is not None:
        found = _in_directory(directory_of(places.models_dir, model), model)
        if found is not None:
            return found
    snapshot = snapshot_of(places.cache, model)
    return None if snapshot is None else _in_directory(snapshot, model)


def _in_directory(directory: Path, model: HubModel) -> Path | None:
    """The model in a directory: itself, or one of its GGUF files; None if it is not complete."""
    if not directory.is_dir():
        return None
    if model.selector is None and not missing_files(directory):
        return directory
    files = [file for file in files_in(directory) if file.name.endswith(".gguf")]
    try:
        gguf = select_files(model.repo, files, model.selector).gguf
    except ValueError:  # none of the files that are here is the one: the hub may have it
        return None
    return None if gguf is None else directory / gguf.name


def files_in(directory: Path) -> list[RepoFile]:
    """The files under a directory, without those of an unfinished download."""
    return [
        RepoFile(path.relative_to(directory).as_posix(), path.stat().st_size)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.relative_to(directory).parts[0].startswith(".")
    ]


def what_is_missing(model: HubModel, places: Places) -> str:
    """Says which files of a model are on this machine, and which are not."""
    parts = []
    if places.models_dir is not None:
        directory = directory_of(places.models_dir, model)
        parts.append(_described(directory, directory, directory / STAGING, model))
    repo = cached_repo(places.cache, model)
    parts.append(_described(repo, snapshot_of(places.cache, model), repo / "blobs", model))
    return "; ".join(parts)


def _described(root: Path, directory: Path | None, blobs: Path, model: HubModel) -> str:
    """Says what a directory holds of a model, and how much of unfinished downloads."""
    files = files_in(directory) if directory is not None and directory.is_dir() else []
    partial = list(blobs.glob("*.incomplete")) if blobs.is_dir() else []
    begun = f"{len(partial)} unfinished download{'s' if len(partial) > 1 else ''}"
    if not files:
        return f"{root} has nothing but {begun}" if partial else f"{root} does not exist"
    names = ", ".join(file.name for file in files) + (f", and {begun}" if partial else "")
    if model.selector is not None or any(file.name.endswith(".gguf") for file in files):
        wanted = model.selector or "a GGUF file that is whole"
        return f"{root} has {names}, but not {wanted}"
    assert directory is not None, "there are files in it"
    return f"{root} has {names}, but not {', '.join(missing_files(directory))}"
