"""Probes versions: Python, flaxen and the libraries that it asks for, compilers.

Imports none of the libraries: a broken one must not end the probe. Deliberately does not know what
they are for.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flaxen
from flaxen.doctor.facts import Requirement, Software

_NOTED = ("jax", "jaxlib", "numpy", "safetensors", "tokenizers", "huggingface_hub", "fastapi")
_COMPILERS = ("g++", "clang++")
_FOR_DEVELOPMENT = ("dev", "demo")  # extras that nobody misses


def probe_software() -> Software:
    """Asks the installed packages' metadata, and the compilers for their versions."""
    url = _direct_url()
    return Software(
        flaxen=flaxen.__version__,
        source=describe_source(url),
        checkout=None if url is None or "dir_info" not in url else _path(url),
        python=platform.python_version(),
        python_path=sys.executable,
        in_environment=sys.prefix != sys.base_prefix,
        versions={name: _version(name) for name in _NOTED},
        compilers=tuple(
            said
            for name in _COMPILERS
            if (path := shutil.which(name)) and (said := _first_line(path, "--version"))
        ),
        requirements=tuple(_requirements()),
    )


def _direct_url() -> dict[str, Any] | None:
    """Where flaxen was installed from: https://packaging.python.org/specifications/direct-url."""
    try:
        text = importlib.metadata.distribution("flaxen").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {"url": str(Path(flaxen.__file__).parents[1]), "dir_info": {"editable": True}}
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def _path(url: dict[str, Any]) -> str:
    return str(url["url"]).removeprefix("file://")


def describe_source(url: dict[str, Any] | None) -> str:
    """What a direct_url.json says, in words; None is a package without one."""
    if url is None:
        return "installed from a package index"
    place = _path(url)
    if version := url.get("vcs_info"):
        return f"installed from {place} at {version['commit_id'][:12]}"
    if "dir_info" not in url:
        return f"installed from {place}"
    how = "editable" if url["dir_info"].get("editable") else "built"
    git = shutil.which("git")
    commit = _first_line(git, "-C", place, "describe", "--always", "--dirty") if git else None
    return f"{how} from {place}{f' at {commit}' if commit else ''}"


def _requirements() -> Iterator[Requirement]:
    from packaging.requirements import Requirement as Parsed  # of a library: not at the start

    try:
        metadata = importlib.metadata.metadata("flaxen")
    except importlib.metadata.PackageNotFoundError:
        return
    extras = [each for each in metadata.get_all("Provides-Extra") or () if each]
    parsed = [Parsed(each) for each in metadata.get_all("Requires-Dist") or ()]
    for extra in (None, *(each for each in extras if each not in _FOR_DEVELOPMENT)):
        for each in parsed:
            needs = not each.marker or each.marker.evaluate({"extra": extra or ""})
            if needs and (extra is None or (each.marker and not _is_base(each))):
                version = _version(each.name)
                yield Requirement(
                    text=f"{each.name}{each.specifier}",
                    name=each.name,
                    version=version,
                    fits=version is not None and each.specifier.contains(version, prereleases=True),
                    extra=extra,
                )


def _is_base(parsed: Any) -> bool:
    return bool(parsed.marker.evaluate({"extra": ""}))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None
