"""Decides whether a run may resume, and protects existing results.

Deliberately does not know training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxen.checkpoints.identity import digest_of_arrays, digest_of_files, text_digests
from flaxen.data.iterate import DataIterator
from flaxen.definitions.definition import Definition
from flaxen.runs.model import Subject
from flaxen.training.config import TrainConfig
from flaxen.training.fingerprint import Fact, Fingerprint, facts
from flaxen.weights.atomic import set_aside, sync
from flaxen.weights.checkpoint import Checkpoint

# Settings that may change when a run resumes: its end, its output, its memory use. The model and
# the files are compared by their contents, and the dtype by what "auto" means.
_MAY_CHANGE = (
    "output_dir", "num_steps", "data.epochs", "checkpoint", "remat", "model",
    "data.files", "dtype",
)  # fmt: skip

_RESULTS = "results.json"  # in the output directory: lists the run's own results
_SETTINGS = "config.json"  # in the output directory: the settings of the run
_METRICS = "metrics.jsonl"


def run_fingerprint(
    config: TrainConfig, subject: Subject, dtype: jnp.dtype, batches: DataIterator[Any]
) -> Fingerprint:
    """Everything that the state of a run depends on.

    Args:
      config: the run's configuration, with a definition's own targets.
      subject: the model.
      dtype: the dtype of compute.
      batches: the opened data.
    """
    files = list(zip(config.data.files, batches.file_digests, strict=True))
    return {
        "model": _model_fact(config, subject),
        **facts({"model": {"config": asdict(subject.config)}} if subject.config else {}),
        **facts({"model": text_digests(subject.tokenizer)}),
        "dtype": Fact(dtype.name, dtype.name),
        "data.files": Fact(
            [digest for _, digest in files],
            ", ".join(f"{path.name} (contents {digest[:8]})" for path, digest in files),
        ),
        **facts(asdict(config), without=_MAY_CHANGE),
    }


def _model_fact(config: TrainConfig, subject: Subject) -> Fact:
    """The fact for the weights with which a run began.

    A definition may initialise them randomly at each start. If all of them are trained that does
    not matter, because the state has them.
    """
    digest = None
    if isinstance(subject.source, Checkpoint) and not config.from_scratch:
        digest = digest_of_files(subject.source)
    elif isinstance(subject.source, Definition) and config.method != "full":
        digest = digest_of_arrays(subject.source.params)
    if digest is None:
        return Fact(None, subject.name)
    return Fact(digest, f"{subject.name} (weights {digest})")


def check_output_dir(output_dir: Path) -> None:
    """Refuses a directory that can't be written, or where a new run would overwrite files that no
    run wrote.

    A model's directory has a config.json too.

    Args:
      output_dir: the output directory of a run without a saved state.

    Raises:
      ValueError: something would be lost.
      OSError: the directory can't be made or written.
    """
    existing = next(each for each in (output_dir, *output_dir.absolute().parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OSError(
            f"output_dir {output_dir} can't be written, because {existing} is "
            f"{'not writable' if existing.is_dir() else 'a file'}: give another one"
        )
    there = [name for name in (_SETTINGS, _METRICS, _RESULTS) if (output_dir / name).exists()]
    if there and not _is_settings(output_dir / _SETTINGS):
        raise ValueError(
            f"{output_dir} holds a {there[0]} that no training run wrote, and this run would write "
            "over it: give another output_dir"
        )


def write_settings(output_dir: Path, config: TrainConfig) -> None:
    """Writes the settings of a run to its directory, for people."""
    _write(output_dir, _SETTINGS, asdict(config))


def _is_settings(path: Path) -> bool:
    """Whether `write_settings` wrote a file."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"model", "output_dir", "optimizer"} <= found.keys()


def check_results(output_dir: Path, paths: Sequence[Path], *, is_resumed: bool) -> None:
    """Refuses to overwrite anything that the run did not write itself.

    Args:
      output_dir: the run's output directory.
      paths: the paths of its results.
      is_resumed: whether a state of this run is saved there.

    Raises:
      ValueError: something would be lost.
    """
    listed = _read(output_dir)
    for path in paths:
        if not path.exists():
            continue
        if not is_resumed:
            raise ValueError(
                f"{path} is there already, and {output_dir} holds no state of a run that made it: "
                "move it away, or give another output_dir"
            )
        own = listed.get("files")
        if own is None and listed:  # it was killed while it wrote them
            continue
        others = sorted(set(_names(path)) - set((own or {}).get(path.name, [])))
        if others:
            raise ValueError(
                f"{path} holds {others[0]}, which this run did not write and which would be lost "
                "with its earlier result: move it away"
            )


def is_written(output_dir: Path, paths: Sequence[Path], step: int) -> bool:
    """Whether the results of the state after `step` steps exist."""
    listed = _read(output_dir)
    is_whole = listed.get("files") is not None and listed.get("step") == step
    return is_whole and all(path.exists() for path in paths)


@contextmanager
def writing_results(output_dir: Path, paths: Sequence[Path], step: int) -> Iterator[None]:
    """Makes room for results. Earlier results are deleted afterwards, or restored if the block
    fails.

    Args:
      output_dir: the run's output directory.
      paths: the paths that the block writes.
      step: the step of their state.
    """
    _write(output_dir, _RESULTS, {"step": step, "files": None})
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(set_aside(path))
        yield
    files = {path.name: _names(path) for path in paths}
    _write(output_dir, _RESULTS, {"step": step, "files": files})


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def _read(output_dir: Path) -> dict[str, Any]:
    path = output_dir / _RESULTS
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def _write(output_dir: Path, name: str, content: dict[str, Any]) -> None:
    filling = output_dir / f".{name}"
    text = json.dumps(content, indent=2, default=str)
    filling.write_text(text + "\n", encoding="utf-8")
    sync(filling)
    filling.replace(output_dir / name)
