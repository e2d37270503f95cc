"""Probes the directories that flaxen writes to, and what it may do with the network.

Deliberately does not know what the files in them mean.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from flaxen.cli.doctor.facts import Network, Place
from flaxen.cli.machine import default_cache

CACHE_VARIABLE = "FLAXEN_CACHE"
_HOST = "127.0.0.1"


def probe_places() -> tuple[Place, ...]:
    """Looks at each directory, and at the disk that it lies on or would be made on."""
    from huggingface_hub import constants  # a third of a second, for its rules about the variables

    cache = os.environ.get(CACHE_VARIABLE) or default_cache()
    return (
        look_at("compiled programs", Path(cache), CACHE_VARIABLE),
        look_at("Hugging Face's cache", Path(constants.HF_HUB_CACHE), "HF_HOME"),
    )


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


def probe_network(port: int) -> Network:
    """Reads the settings of the Hugging Face client; nothing is sent anywhere."""
    from huggingface_hub import constants, get_token

    return Network(
        is_offline=bool(constants.HF_HUB_OFFLINE),
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
