"""`flaxen serve --kv-offload-dir`, killed while it stores pages, starts again and answers alike."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import KEY, Server, serve
from tests.e2e.tiny_model import write_tiny_model

OPTIONS = (
    "--dtype", "float32", "--quantization", "none", "--max-model-len", "512", "--max-num-seqs", "4",
    "--max-num-batched-tokens", "64", "--compile-size", "64", "--kv-cache-size", "1MiB",
    "--offline",
)  # fmt: skip
Answers = dict[int, list[int]]  # the tokens of each prompt's answer


def prompt(number: int) -> list[int]:
    """Tokens that no other prompt begins with; most of them fill pages."""
    return [(number * 31 + place * place) % 250 for place in range(400)]


def ask(url: str, number: int) -> list[int]:
    body = {
        "prompt": prompt(number), "max_tokens": 8, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)
    found: list[int] = answer.raise_for_status().json()["choices"][0]["token_ids"]
    return found


def kill_while_it_stores(server: Server, pages: Path) -> Answers:
    """Sends prompts from three threads, and kills the server while a segment is unfinished, or
    after many. Returns what it had answered.
    """
    answers: Answers = {}

    def goes_on() -> bool:
        if not answers.keys() >= set(range(6)) or len(list(pages.glob("*/*.pages"))) < 4:
            return True
        return len(answers) < 60 and not any(pages.glob("*/*.tmp"))

    def send(first: int) -> None:
        for number in range(first, 10**6, 3):
            try:
                answers[number] = ask(server.url, number)
            except httpx.HTTPError:  # it is killed
                return

    threads = [threading.Thread(target=send, args=(first,)) for first in range(3)]
    for each in threads:
        each.start()
    try:
        deadline_s = time.monotonic() + 60
        while goes_on():
            assert time.monotonic() < deadline_s, f"{len(answers)} answers in a minute"
    finally:
        server.process.kill()  # SIGKILL
        for each in threads:
            each.join()
    assert server.process.wait() == -signal.SIGKILL
    return answers


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_stores_starts_again_and_answers_alike(
    compile_cache: Path, tmp_path: Path
) -> None:
    model, pages = write_tiny_model(tmp_path / "model"), tmp_path / "pages"
    options = (*OPTIONS, "--kv-offload-dir", str(pages))
    with serve(compile_cache, tmp_path / "first", *options, path=str(model)) as server:
        answers = kill_while_it_stores(server, pages)
    left = sorted(pages.glob("*/*.pages"), key=lambda path: path.stat().st_mtime_ns)
    # What a crash of the machine or a bad disk would do to three of them: one is cut, one has
    # another bit in one of its pages, one was not finished.
    os.truncate(left[0], left[0].stat().st_size // 2)
    data = bytearray(left[1].read_bytes())
    data[len(data) // 2] ^= 1
    left[1].write_bytes(data)
    left[2].rename(left[2].with_suffix(".tmp"))

    with serve(compile_cache, tmp_path / "second", *options, path=str(model)) as server:
        assert not any(pages.glob("*/*.tmp"))
        for number, expected in answers.items():
            assert ask(server.url, number) == expected, f"prompt {number}"
        metrics = server.metrics()
    assert 0 < metrics["external_prefix_cache_hits_total"] < 384 * len(answers)
    assert metrics["kv_offload_mismatches_total"] == 24  # of the segment with another bit
    log = (tmp_path / "second").read_text()
    assert "2 stored segments are not used" in log or "3 stored segments are not used" in log
    assert "a segment is not used, its pages are computed" in log
    assert "Traceback" not in log
