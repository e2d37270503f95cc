"""Which files of a repository are one model: safetensors with what belongs to them, or a GGUF file.

Deliberately knows neither the network nor the contents of files.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from flaxen.hub.sizes import format_size
from flaxen.hub.weight_files import ADAPTER_CONFIG, INDEX, SINGLE

# Files that may be downloaded beside weights: never pickle (.bin, .pt), never code (.py).
_BESIDE = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/*.jinja", INDEX,
)  # fmt: skip
_NEEDED = ("config.json", "tokenizer.json")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLE = re.compile(r".+\.(bin|pt|pth)")
# Quantizations as llama.cpp's and other converters name their files.
_QUANTIZATION = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_\w+)*|TQ\d_\d|MXFP4(?:_\w+)?|NVFP4|BF16|F16|FP16|F32|FP32))$",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"-(?P<index>\d{5})-of-(?P<count>\d{5})$")  # the end of a part's name
_NO_MODEL = ("mmproj", "imatrix")  # what else GGUF repositories hold: image encoders, statistics
_FIRST_CHOICES = ("Q4_K_M", "Q8_0")  # llama.cpp's
_UNREADABLE = re.compile(r"Q4_0_\d_\d")  # layouts that llama.cpp itself has dropped


class RepoFile(NamedTuple):
    """A file of a repository."""

    name: str  # its path in the repository
    size: int  # bytes
    sha256: str | None = None  # of a large file
    git_sha1: str | None = None  # git's hash of any other file

    @property
    def digest(self) -> str | None:
        """The hash by which the hub and its cache name the file's contents."""
        return self.sha256 or self.git_sha1


class Selection(NamedTuple):
    """The files of one model."""

    files: tuple[RepoFile, ...]
    quantization: str | None  # of a GGUF file, as its name has it
    others: tuple[RepoFile, ...]  # GGUF files that could have been chosen; empty if one was named

    @property
    def gguf(self) -> RepoFile | None:
        """The GGUF file, or None if the model is in safetensors."""
        return self.files[0] if self.files[0].name.endswith(".gguf") else None

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


def quantization_of(name: str) -> str | None:
    """The quantization in the name of a GGUF file, in capitals, or None if it has none."""
    stem = _SPLIT.sub("", PurePosixPath(name).stem)
    match = _QUANTIZATION.search(stem)
    return match[1].upper() if match else None


def is_gguf_model(name: str) -> bool:
    """Whether a file is a model in GGUF, or the first part of one, by its name."""
    path = PurePosixPath(name)
    part = _SPLIT.search(path.stem)
    is_later = part is not None and int(part["index"]) != 1
    is_model = not any(word in path.name.lower() for word in _NO_MODEL)
    return path.suffix == ".gguf" and is_model and not is_later


def is_selected(name: str, selector: str) -> bool:
    """Whether a quantization, or the name of a file, means a GGUF file."""
    if selector.lower().endswith(".gguf"):
        return selector.lower() in (name.lower(), PurePosixPath(name).name.lower())
    found = quantization_of(name) or ""
    return selector.upper() in (found, found.removeprefix("UD-"))


def select_files(repo: str, files: Sequence[RepoFile], selector: str | None) -> Selection:
    """Chooses the files of one model.

    Args:
      repo: the repository's name, for messages.
      files: its files.
      selector: a quantization, the name of a GGUF file, or None: safetensors if there are any,
          else the GGUF file of the first of Q4_K_M, Q8_0, or the first by name.

    Raises:
      ValueError: there is no such model, or several; the message lists what there is.
    """
    ggufs = [file for file in files if is_gguf_model(file.name)]
    weights = _safetensors(files)
    if selector is None and weights:
        return Selection(_with_rest(repo, files, weights), None, ())
    if not ggufs:
        raise ValueError(_no_gguf(repo, files, selector, bool(weights)))
    chosen = _named(repo, ggufs, selector) if selector else _default(ggufs)
    if num_parts := _num_parts(chosen.name):
        raise ValueError(
            f"{chosen.name} of {repo} is one of {num_parts} parts of a GGUF file, which flaxen "
            "does not join. Take a file that is whole, or download the parts and merge them by "
            f"`llama-gguf-split --merge`. {_there_are(ggufs)}"
        )
    others = () if selector else tuple(f for f in ggufs if f is not chosen)
    return Selection((chosen,), quantization_of(chosen.name), others)


def _num_parts(name: str) -> int:
    """The number of parts of a split GGUF file; 0 of one that is whole."""
    part = _SPLIT.search(PurePosixPath(name).stem)
    return int(part["count"]) if part else 0


def _safetensors(files: Sequence[RepoFile]) -> list[RepoFile]:
    """The weights in transformers' layout: the shards if there are any, or the single file."""
    shards = [file for file in files if _SHARD.fullmatch(file.name)]
    return shards or [file for file in files if file.name == SINGLE]


def _with_rest(
    repo: str, files: Sequence[RepoFile], weights: list[RepoFile]
) -> tuple[RepoFile, ...]:
    rest = [f for f in files if any(fnmatch.fnmatchcase(f.name, each) for each in _BESIDE)]
    needed = (*_NEEDED, INDEX) if _SHARD.fullmatch(weights[0].name) else _NEEDED
    missing = [name for name in needed if name not in {file.name for file in rest}]
    if missing:
        raise ValueError(
            f"{repo} has weights in safetensors, but no {' and no '.join(missing)}: flaxen needs "
            "it. Look for a repository of the same model in transformers' layout, or for one with "
            "GGUF files"
        )
    return (*weights, *rest)


def _named(repo: str, ggufs: list[RepoFile], selector: str) -> RepoFile:
    found = [file for file in ggufs if is_selected(file.name, selector)]
    if len(found) == 1:
        return found[0]
    what = "no" if not found else "several files that are"
    raise ValueError(f"{repo} has {what} {selector}. {_there_are(found or ggufs)}")


def _default(ggufs: list[RepoFile]) -> RepoFile:
    for quantization in _FIRST_CHOICES:
        for file in ggufs:
            if quantization_of(file.name) == quantization:
                return file
    readable = [f for f in ggufs if not _UNREADABLE.fullmatch(quantization_of(f.name) or "")]
    return min(readable or ggufs, key=lambda file: file.name)


def _there_are(ggufs: Sequence[RepoFile]) -> str:
    quantizations = {quantization_of(file.name) for file in ggufs}
    is_told_apart = len(quantizations) == len(ggufs) and None not in quantizations
    listed = [
        f"{quantization_of(file.name) if is_told_apart else file.name} ({_size_of(file)})"
        for file in ggufs
    ]
    return f"There is {listed[0]}" if len(listed) == 1 else f"There are {', '.join(sorted(listed))}"


def _size_of(file: RepoFile) -> str:
    num_parts = _num_parts(file.name)
    return f"{num_parts} parts" if num_parts else format_size(file.size)


def _no_gguf(repo: str, files: Sequence[RepoFile], selector: str | None, weights: bool) -> str:
    names = {file.name for file in files}
    if weights:
        return (
            f"{repo} has safetensors and no GGUF file, so there is no {selector} to choose: leave "
            f":{selector} out. --quantization int8 or int4 quantizes the weights as they are loaded"
        )
    if ADAPTER_CONFIG in names:
        return (
            f"{repo} is a LoRA adapter, no model: get its base model, download the adapter by "
            f"`hf download {repo} --local-dir DIR`, and load it with --adapter DIR"
        )
    pickles = sorted(name for name in names if _PICKLE.fullmatch(name))
    if pickles:
        return (
            f"{repo} has its weights in {pickles[0]} alone: pickle files can run code and are "
            "never downloaded. Look for a repository of the model with safetensors or GGUF files"
        )
    return f"{repo} has neither safetensors in transformers' layout nor GGUF files: it is no model"
