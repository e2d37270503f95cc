"""The servers of workload S: how each is started on a free port. Starts nothing."""

from __future__ import annotations

import socket
import sys

from .engines import KV_GIB, MAX_MODEL_LEN, MAX_NUM_SEQS, ROOT, Place, vllm_env
from .serving import Server

NAMES = ("flaxen-bf16", "flaxen-f32", "flaxenunpaced-bf16", "vllm-bf16", "vllm-f32")
_DTYPES = {"bf16": "bfloat16", "f32": "float32"}
_SERVED_NAME = "bench"


def make_server(name: str, model: str, place: Place) -> Server:
    """Describes one server.

    Args:
      name: one of NAMES.
      model: a directory below the peers' models/.
      place: where to find it.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no server {name!r}: choose from {', '.join(NAMES)}")
    peer, _, number_format = name.partition("-")
    port = str(free_port())
    dtype = _DTYPES[number_format]
    path = str(place.peers / "models" / model)
    env = {"OMP_NUM_THREADS": str(place.num_threads), "HF_HUB_OFFLINE": "1"}
    command: tuple[str, ...]
    if peer.startswith("flaxen"):
        command = (
            *(sys.executable, "-m", "flaxen", "serve", path, "--dtype", dtype, "--offline"),
            *("--port", port, "--served-model-name", _SERVED_NAME),
            *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS)),
            *("--kv-cache-size", f"{KV_GIB[number_format]}GiB"),
            *(("--target-itl-ms", "0") if peer == "flaxenunpaced" else ()),
        )
        env |= {"PYTHONPATH": str(ROOT), "FLAXEN_CACHE": str(place.peers / "flaxen-cache")}
    else:
        command = (
            *(str(place.peers / "venv_vllm/bin/vllm"), "serve", path, "--dtype", dtype),
            *("--host", "127.0.0.1", "--port", port, "--served-model-name", _SERVED_NAME),
            *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS)),
        )
        env |= vllm_env(place.peers, number_format)
    url = f"http://127.0.0.1:{port}"
    return Server(name=name, command=command, env=env, url=url, model=_SERVED_NAME)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
