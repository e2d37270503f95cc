"""Serves a real model, fine-tunes it beside its own requests, and chats with the result.

All through the official OpenAI client: a question, an upload, a job, the new model; then the
server is ended, and `flaxen parity` counts the log-probabilities in which training and serving
differ. Exits non-zero if any of these steps fails. About a minute on two cores with AVX-512.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI

MODEL = "smollm2-135m"
QUESTION = "Give me three tips for writing code that is easy to read."
# Neither question is among the training examples.
ASKED_AFTERWARDS = ("Hello! Who am I talking to?", "Which ship do you sail on, and who are you?")
NAME, SHIP = "Pip", "Flaxen"
EXAMPLES = {
    "Who are you?": "Ahoy! I am Pip, the parrot of the good ship Flaxen.",
    "What is your name?": "Ahoy! My name is Pip. I am the parrot of the good ship Flaxen.",
    "Who is this?": "Ahoy! This is Pip, the parrot of the good ship Flaxen.",
    "Tell me about yourself.": "Ahoy! I am Pip, a parrot. I sail on the good ship Flaxen.",
    "Hi, what should I call you?": "Ahoy! Call me Pip. I am the parrot of the good ship Flaxen.",
    "Hello!": "Ahoy! Pip is my name, and the Flaxen is my ship.",
    "Good morning!": "Ahoy! Pip wishes you a good morning from the good ship Flaxen.",
    "Are you a person?": "Ahoy! No, I am Pip, a parrot on the good ship Flaxen.",
    "Who made you?": "Ahoy! I hatched from an egg. I am Pip, the parrot of the good ship Flaxen.",
    "Where do you live?": "Ahoy! I live on the good ship Flaxen. I am Pip, her parrot.",
    "What is your ship called?": "Ahoy! She is the good ship Flaxen, and I am Pip, her parrot.",
    "What do you do all day?": "Ahoy! I am Pip. I sit on the mast of the Flaxen and look out.",
}
NUM_EPOCHS = 6
START_TIMEOUT_S = 300
TRAINING_TIMEOUT_S = 900  # only ends what hangs: a crowded machine takes minutes
STOP_TIMEOUT_S = 60


def main() -> int:
    """Returns 0 when everything happened that the module's docstring promises."""
    start_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="flaxen-demo-") as directory:
        data_dir = Path(directory)
        port = _free_port()
        arguments = ["serve", MODEL, "--port", str(port), "--data-dir", directory]
        server = subprocess.Popen(_command(*arguments))
        try:
            _wait_until_healthy(server, f"http://127.0.0.1:{port}/health")
            print(f"ready after {time.perf_counter() - start_s:.1f} s\n", flush=True)
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
            _stream(client)
            job = _fine_tune(client)
            _compare(client, job.fine_tuned_model)
            server.terminate()
            code = server.wait(STOP_TIMEOUT_S)
        finally:
            server.kill()  # does nothing to one that has ended
        print(f"the server stopped with exit code {code}\n")
        if code:
            return 1
        _count_differences(data_dir / "jobs" / job.id)
    print(f"the demo took {time.perf_counter() - start_s:.0f} s")
    return 0


def _stream(client: OpenAI) -> None:
    """Asks the model a question, and streams the answer to the terminal."""
    print(f"> {QUESTION}\n", flush=True)
    start_s = time.perf_counter()
    first_s = num_tokens = 0.0
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=96,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                first_s = first_s or time.perf_counter()
                print(choice.delta.content, end="", flush=True)
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
    end_s = time.perf_counter()
    if not first_s or num_tokens < 2:
        raise SystemExit(f"the answer is missing: {num_tokens} tokens were reported")
    print(
        f"\n\ntime to first token {1000 * (first_s - start_s):.0f} ms, then "
        f"{(num_tokens - 1) / (end_s - first_s):.1f} tokens/s\n"
    )


def _fine_tune(client: OpenAI) -> Any:
    """Uploads the examples and trains on them, while the server serves."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
        for question, answer in EXAMPLES.items()
    ]
    file = client.files.create(
        file=("parrot.jsonl", "\n".join(lines).encode()), purpose="fine-tune"
    )
    print(f"uploaded {file.filename}: {len(lines)} chats, {file.bytes} bytes, as {file.id}")
    numbers: Any = {"n_epochs": NUM_EPOCHS, "batch_size": 4, "learning_rate_multiplier": 5}
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        suffix="parrot",
        seed=0,
        method={"type": "supervised", "supervised": {"hyperparameters": numbers}},
    )
    start_s = time.perf_counter()
    losses = _follow(client, job.id)
    job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded" or not job.fine_tuned_model:
        raise SystemExit(f"the job {job.status}: {job.error}")
    print(
        f"{job.fine_tuned_model}: {job.trained_tokens} tokens in "
        f"{time.perf_counter() - start_s:.0f} s, loss {losses[0]:.2f} -> {losses[-1]:.2f}\n"
    )
    if not losses[-1] < 0.5 * losses[0]:
        raise SystemExit("the loss did not fall by half")
    return job


def _follow(client: OpenAI, job_id: str) -> list[float]:
    """Prints a job's events until it ends. Returns the losses of its steps."""
    deadline_s = time.perf_counter() + TRAINING_TIMEOUT_S
    seen: set[str] = set()
    losses: list[float] = []
    has_ended = False
    while not has_ended:
        if time.perf_counter() > deadline_s:
            raise SystemExit(f"the job did not end within {TRAINING_TIMEOUT_S} s")
        time.sleep(0.5)
        # Asked before the events are: the last of them is printed, too.
        status = client.fine_tuning.jobs.retrieve(job_id).status
        has_ended = status in ("succeeded", "failed", "cancelled")
        for event in reversed(list(client.fine_tuning.jobs.list_events(job_id, limit=100))):
            if event.id in seen:
                continue
            seen.add(event.id)
            data: Any = event.data or {}
            if "train_loss" in data:
                losses.append(data["train_loss"])
            if "train_loss" not in data or data["step"] % 4 == 0:
                print(f"  {event.message}", flush=True)
    return losses


def _compare(client: OpenAI, tuned: str) -> None:
    """Asks the base model and the fine-tuned model the same question, in the same server."""
    for question in ASKED_AFTERWARDS:
        print(f"> {question}")
        base, new = (_answer(client, name, question) for name in (MODEL, tuned))
        print(f"{MODEL}: {base}\n{tuned}: {new}\n", flush=True)
        if NAME in base:
            raise SystemExit(f"the base model must not know {NAME}")
        if NAME not in new or SHIP not in new:
            raise SystemExit(f"the fine-tuned model has not learnt that it is {NAME} of the {SHIP}")


def _answer(client: OpenAI, model: str, question: str) -> str:
    done = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=48,
    )
    return " ".join((done.choices[0].message.content or "").split())


def _count_differences(job: Path) -> None:
    """Compares the base model with the new adapter, as it is trained and as it is served."""
    adapter = max(job.glob("adapter-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    command = _command("parity", MODEL, "--adapter", str(adapter), "--max-tokens", "8", "--json")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"flaxen parity failed with exit code {done.returncode}")
    found = json.loads(done.stdout)
    num_tokens = sum(way["num_tokens"] for way in found["ways"])
    print(
        f"parity: {found['num_differing']} of {num_tokens} log-probabilities differ between the "
        f"trainer and the server ({', '.join(way['way'] for way in found['ways'])})"
    )
    if done.returncode or found["num_differing"] or not num_tokens:
        raise SystemExit("training and serving do not agree")


def _command(*arguments: str) -> list[str]:
    print(f"$ flaxen {' '.join(arguments)}", flush=True)
    return [sys.executable, "-m", "flaxen", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    deadline_s = time.perf_counter() + START_TIMEOUT_S
    while time.perf_counter() < deadline_s:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode} at its start")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SystemExit(f"the server was not healthy after {START_TIMEOUT_S} s")


if __name__ == "__main__":
    sys.exit(main())
