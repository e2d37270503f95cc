"""A worker: llama.cpp's llama-server, all requests sent to it at once over HTTP.

Arguments: binary (its path), slots, slot_tokens and threads. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .jsonlines import Generate, answer

REQUEST_TIMEOUT_S = 3600  # the driver has its own, shorter one


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Starts the server, and waits until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    slots, threads = args["slots"], str(args["threads"])
    command = [
        *(args["binary"], "-m", model, "--host", "127.0.0.1", "--port", str(port)),
        *("-np", str(slots), "-c", str(slots * args["slot_tokens"])),
        *("-t", threads, "-tb", threads),
    ]
    # It ends with this worker's process group, which the driver ends as a whole.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while not _is_healthy(url):
        if server.poll() is not None:
            raise RuntimeError(f"llama-server ended with status {server.returncode}: see above")
        time.sleep(0.1)

    def one(prompt: list[int], num_output: int) -> int:
        body = {
            "prompt": prompt,
            "n_predict": num_output,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": True,
        }
        headers = {"Content-Type": "application/json"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(url + "/completion", data, headers)
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
            return int(json.load(response)["tokens_predicted"])

    pool = ThreadPoolExecutor(slots)

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        start_s = time.perf_counter()
        num_tokens = sum(pool.map(one, prompts, num_outputs))
        return time.perf_counter() - start_s, num_tokens

    version = subprocess.run([args["binary"], "--version"], capture_output=True, text=True)
    return generate, {"llama.cpp": (version.stdout + version.stderr).splitlines()[0]}


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    os.environ["no_proxy"] = "127.0.0.1"
    answer(load)
