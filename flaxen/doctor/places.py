"""Probes the directories that flaxen writes to, the models in them, and the network.

Deliberately does not know what the files in them mean.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from flaxen.doctor.facts import Network, Place, PulledModel

_HOST = "127.0.0.1"


def probe_places(compile_cache: Path | None, models_dir: Path | None) -> tuple[Place, ...]:
    """Looks at each directory, and at the disk that it lies on or would be made on.

    Args:
      compile_cache: the directory of compiled programs; None if the user has no home.
      models_dir: the directory of models; None is Hugging Face's cache alone.
    """
    from huggingface_hub import constants  # it has the rules of its variables

    places = [look_at("Hugging Face's cache", Path(constants.HF_HUB_CACHE), "HF_HOME")]
    if compile_cache is not None:
        places.insert(0, look_at("compiled programs", compile_cache, "FLAXEN_CACHE"))
    if models_dir is not None:
        places.append(look_at("models", models_dir, "FLAXEN_MODELS_DIR"))
    return tuple(places)


def look_at(name: str, path: Path, variable: str) -> Place:
    """Describes a directory, which need not be there yet."""
    there = path
    while not there.exists():
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    return Place(
        name=name,
        path=str(path),
        variable=variable,
        is_writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        used_bytes=_used(path),
        free_bytes=free,
    )


def _used(directory: Path) -> int:
    """Bytes on the disk; files that a running process removes meanwhile count nothing."""
    total = 0
    for parent, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.lstat(os.path.join(parent, file)).st_blocks * 512
            except OSError:
                continue
    return total


def probe_models(models_dir: Path | None) -> tuple[PulledModel, ...]:
    """The models of `flaxen list`."""
    from flaxen.hub.inventory import list_models
    from flaxen.hub.places import Places

    return tuple(
        PulledModel(name=each.name, kind=each.kind, num_bytes=each.size)
        for each in list_models(Places(models_dir=models_dir))
    )


def probe_network(port: int, *, offline: bool) -> Network:
    """Reads the settings of the Hugging Face client; nothing is sent anywhere.

    Args:
      port: the port of a server.
      offline: whether the command was told to stay offline.
    """
    from huggingface_hub import constants, get_token

    return Network(
        is_offline=offline or bool(constants.HF_HUB_OFFLINE),
        endpoint=constants.ENDPOINT,
        has_token=get_token() is not None,
        port=port,
        is_port_free=is_free(port),
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of 127.0.0.1."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            server.bind((_HOST, port))
        except OSError:
            return False
    return True
