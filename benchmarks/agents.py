"""Agents that wait for tools: the time to the first token of each turn, over any server's HTTP.

Eight sessions of 20 turns share a server whose KV cache does not hold them all. A turn sends the
whole conversation with what a tool returned, 200 to 2,000 tokens, streams an answer of 16 tokens,
and waits as a tool would. The turns are scaled together so that a session fits into the model's
8,192 positions, or into fewer (--tokens). The same work each time, whoever answers:

    python benchmarks/agents.py --url http://127.0.0.1:8000 --model NAME [--retention] [--label X]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import httpx
import numpy as np

SESSIONS, TURNS, ANSWER = 8, 20, 16
MOST = 7900  # tokens of a session


def turns_of(session: int, most: int, turns: int, seed: int) -> list[list[int]]:
    """The new tokens of each turn; the seed changes the tokens, not their numbers."""
    rng = np.random.default_rng(session)
    sizes = rng.integers(200, 2001, turns) * 1.0
    sizes *= (most - turns * ANSWER) / sizes.sum()
    rng = np.random.default_rng([session, seed])
    return [rng.integers(1000, 40000, int(size)).tolist() for size in sizes]


async def run_session(
    client: httpx.AsyncClient, session: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One agent's turns: seconds to the first token, tokens, and how many were cached."""
    rng = np.random.default_rng(100 + session)
    prompt: list[int] = []
    found = []
    await asyncio.sleep(0.1 * session)
    for turn, new in enumerate(turns_of(session, args.tokens, args.turns, args.seed)):
        prompt = prompt + new
        body: dict[str, Any] = {
            "model": args.model, "prompt": prompt, "max_tokens": ANSWER, "temperature": 0,
            "ignore_eos": True, "stream": True, "return_token_ids": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if args.retention:
            body |= {"session_id": f"agent-{session}", "retention": {"ttl_s": 120}}
        answer, usage = list[int](), dict[str, Any]()
        first_s, started = None, time.perf_counter()
        async with client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                for choice in event["choices"]:
                    tokens = choice.get("token_ids") or []
                    first_s = first_s or (time.perf_counter() - started if tokens else None)
                    answer += tokens
                usage = event.get("usage") or usage
        assert first_s is not None, "no token came"
        details = usage.get("prompt_tokens_details") or {}
        found.append(
            {
                "turn": turn,
                "prompt": len(prompt),
                "cached": details.get("cached_tokens"),
                "ttft_s": round(first_s, 4),
                "answer_s": round(time.perf_counter() - started, 4),
            }
        )
        prompt = prompt + answer[:ANSWER]
        await asyncio.sleep(rng.uniform(*args.tool_s))
    return found


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """All sessions at once."""
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=args.url, timeout=600) as client:
        found = await asyncio.gather(*(run_session(client, i, args) for i in range(args.sessions)))
    later = [each for session in found for each in session if each["turn"]]
    ttfts = sorted(each["ttft_s"] for each in later)
    answers = sorted(each["answer_s"] for each in later)
    cached = [each["cached"] for each in later]
    prompts = sum(each["prompt"] for each in later)
    by_turn = zip(*found, strict=True)
    return {
        "label": args.label, "sessions": args.sessions, "turns": args.turns, "tokens": args.tokens,
        "tool_s": args.tool_s, "retention": args.retention,
        "wall_s": round(time.perf_counter() - started, 1),
        "ttft_p50_s": round(statistics.median(ttfts), 3),
        "ttft_p90_s": round(ttfts[int(len(ttfts) * 0.9)], 3),
        "answer_p50_s": round(statistics.median(answers), 3),
        "answer_p90_s": round(answers[int(len(answers) * 0.9)], 3),
        "cached_share": None if None in cached else round(sum(cached) / prompts, 3),
        "ttft_median_by_turn_s": [
            round(statistics.median(each["ttft_s"] for each in turn), 3) for turn in by_turn
        ],
    }  # fmt: skip


def main() -> None:
    """Runs the agents and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--label", default="")
    parser.add_argument("--retention", action="store_true", help="send session_id and retention")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--tokens", type=int, default=MOST, help="of a session at its end")
    parser.add_argument("--seed", type=int, default=0, help="another one finds nothing cached")
    parser.add_argument("--tool-s", type=float, nargs=2, default=(0.5, 2.0), metavar=("LO", "HI"))
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
