"""Finds the files with the model's weights in a Hugging Face directory.

A directory may have files of several models. If there are two sets of weights, none is chosen
silently. Deliberately does not know the contents of safetensors files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DESCRIPTION = "definition.json"  # of a definition: the name of its code
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pt", ".pth")


class WeightFiles(NamedTuple):
    """The weight files, and the index of their tensors."""

    names: tuple[str, ...]
    shard_of: Mapping[str, str] | None  # the file of each tensor; None if one file has all


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file with one object.

    Raises:
      ValueError: the file is missing, or is not a JSON object.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {path.parent} is no complete checkpoint")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def find_weights(directory: Path) -> WeightFiles:
    """Finds the files of one model's weights, and checks that all exist.

    An index without any of its shards is ignored if there is a single file. An index that names the
    single file itself is used.

    Args:
      directory: has model.safetensors, or model.safetensors.index.json with its shards.

    Raises:
      ValueError: there are no weights, a shard is missing, or there are several sets of weights.
    """
    has_whole, has_index = (directory / SINGLE).is_file(), (directory / INDEX).is_file()
    held = _held_shards(directory)
    if has_index:
        shard_of = _read_index(directory / INDEX)
        shards = tuple(sorted(set(shard_of.values())))
        found = [name for name in shards if (directory / name).is_file()]
        if not has_whole or SINGLE in shards:
            _refuse_missing(directory, shards, found)
            _refuse_adapter(directory)
            return WeightFiles(shards, shard_of)
        held = sorted({*held, *found})
    if has_whole:
        if held:
            raise ValueError(
                f"{directory} holds two sets of weights, {SINGLE} and {_listed(held)}: one of them "
                f"is an older model's. Keep one: remove {SINGLE}, or remove the shards"
                + (f" and {INDEX}" if has_index else "")
            )
        _refuse_adapter(directory)
        return WeightFiles((SINGLE,), None)
    raise ValueError(_no_weights(directory, held))


def missing_files(directory: Path) -> list[str]:
    """The files that a model in safetensors needs and the directory lacks; their contents are not
    checked.

    A cache filled by another program often lacks the tokenizer, because AutoModel does not read
    one.

    Raises:
      ValueError: the index is damaged.
    """
    needed = ["config.json", "tokenizer.json"]
    if (directory / INDEX).is_file() and not (directory / SINGLE).is_file():
        needed += sorted(set(_read_index(directory / INDEX).values()))
    else:
        needed.append(SINGLE)
    return [name for name in needed if not (directory / name).is_file()]


def check_is_model(directory: Path) -> None:
    """Explains what a directory that is no model's contains instead of a model.

    Raises:
      ValueError: it is the directory of a training run, with results in it, or it has no
          config.json, but an adapter or GGUF files.
    """
    _refuse_run(directory)
    if (directory / "config.json").is_file():
        return
    if (directory / ADAPTER_CONFIG).is_file():
        base = read_json(directory / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise ValueError(
            f"{directory} holds a LoRA adapter ({ADAPTER_CONFIG}) and no model: give its base "
            f"model{f', {base},' if isinstance(base, str) and base else ''} as the model, and the "
            f"adapter beside it, as --adapter {directory}"
        )
    files = _gguf_files(directory)
    if files:
        raise ValueError(
            f"{directory} has no config.json, but {_listed(files)}: give the path of the .gguf "
            f"file itself, as {directory / files[0]}"
        )


def _refuse_run(directory: Path) -> None:
    """A run of `flaxen train` keeps its settings in config.json, and its results below."""
    if not (directory / "checkpoints").is_dir() or not (directory / "config.json").is_file():
        return
    results = [
        entry
        for entry in sorted(directory.iterdir())
        if (entry / ADAPTER_CONFIG).is_file() or (entry.name == "model" and entry.is_dir())
    ]
    if results:
        raise ValueError(
            f"{directory} is the directory of a training run: give its result, "
            f"{' or '.join(map(str, results))}"
        )


def _read_index(path: Path) -> dict[str, str]:
    """Reads the index: the file of each tensor."""
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{path} must have a weight_map object, got {shard_of!r}")
    for shard in shard_of.values():
        # The index comes with the weights, so its paths must stay inside their directory.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ValueError(f"{path}: weight_map names {shard!r}, which is no file beside it")
    return shard_of


def _held_shards(directory: Path) -> list[str]:
    return [name for name in _files(directory, ".safetensors") if _SHARD.fullmatch(name)]


def _gguf_files(directory: Path) -> list[str]:
    return _files(directory, ".gguf")


def _files(directory: Path, *suffixes: str) -> list[str]:
    """The names of the files with a suffix, without directories and broken links."""
    entries = (entry for entry in directory.iterdir() if entry.suffix in suffixes)
    return sorted(entry.name for entry in entries if entry.is_file())


def _refuse_missing(directory: Path, shards: Iterable[str], found: list[str]) -> None:
    missing = [name for name in shards if name not in found]
    if not missing:
        return
    others = sorted({*_files(directory, ".safetensors")} - {*found})
    raise ValueError(
        f"{directory / missing[0]} does not exist, but {INDEX} names it"
        f"{f' and {len(missing) - 1} more that are missing' if len(missing) > 1 else ''}: "
        + (
            f"{_listed(others)}, which it does not name, is there; if the index is an older "
            "model's, replace it by that of these weights, else download the missing files"
            if others
            else "download what is missing"
        )
    )


def _refuse_adapter(directory: Path) -> None:
    """Refuses a directory with a model and an adapter: transformers would apply the adapter, other
    programs would not.
    """
    if all((directory / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        raise ValueError(
            f"{directory} holds a whole model and a LoRA adapter ({ADAPTER_WEIGHTS}), and does not "
            "say whether they belong together: move the adapter's two files into a directory of "
            "its own, and load it from there beside the model, as --lora-modules does"
        )


def _no_weights(directory: Path, shards: list[str]) -> str:
    """Explains the missing weights by the files that exist."""
    for name in (SINGLE, INDEX):
        if (directory / name).is_symlink():  # as in a cache whose files were removed
            return f"{directory / name} is a link to a file that does not exist: download it again"
    start = f"{directory} has neither {SINGLE} nor {INDEX}"
    if shards:
        return (
            f"{start}; {_listed(shards)} is there, but without its index nobody can tell whether "
            f"all parts are: download {INDEX}"
        )
    if (directory / ADAPTER_WEIGHTS).is_file():
        return (
            f"{start}; {ADAPTER_WEIGHTS} is there, which is a LoRA adapter: serve its base model, "
            f"and load the adapter beside it, as --lora-modules NAME={directory} does"
        )
    files = _gguf_files(directory)
    if files:
        return f"{start}, but {_listed(files)}: give the path of the .gguf file itself"
    others = _files(directory, ".safetensors")
    if others:
        return (
            f"{start}; {_listed(others)} is there, whose layout is not known by that name: only "
            "transformers' layout is read. Download the model in it, or rename the file if it has "
            "it"
        )
    pickles = _files(directory, *_PICKLES)
    if pickles:
        return (
            f"{start}; {pickles[0]} is there, but pickle files can run code and are never read: "
            "convert them to safetensors"
        )
    return f"{start}: download the weights"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} with {len(names) - 1} more like it"
