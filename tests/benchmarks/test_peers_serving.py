"""Workload S, on servers and a client that are a few lines of Python."""

from __future__ import annotations

import re
import stat
import sys
from pathlib import Path

import pytest

from benchmarks.peers.servers import free_port
from benchmarks.peers.serving import FIGURES, Client, Server, compare_servers

pytestmark = pytest.mark.slow  # each test starts processes

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Writes down whom it asked, and reports each figure as the seed. One server answers too little.
CLIENT = """#!{python}
import json, pathlib, sys, urllib.request
options = dict(zip(sys.argv[3::1], sys.argv[4::1]))
directory = pathlib.Path(options["--result-dir"])
seed, asked = int(options["--seed"]), int(options["--num-prompts"])
model = options["--model"]
urllib.request.urlopen(options["--base-url"] + "/health", timeout=10)
with open(directory / "order", "a") as file:
    file.write(f"{{model}} {{seed}}\\n")
if model == "breaks":
    sys.exit("the client broke")
figures = dict.fromkeys({names}, seed)
figures["completed"] = asked - (model == "lossy" and seed > 0)
(directory / options["--result-filename"]).write_text(json.dumps(figures))
"""


@pytest.fixture
def client(tmp_path: Path) -> Client:
    program = tmp_path / "vllm"
    program.write_text(CLIENT.format(python=sys.executable, names=sorted(FIGURES.values())))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Client(program=program, tokenizer=tmp_path, results=tmp_path / "results")


def server(name: str, script: str = SERVER) -> Server:
    port = str(free_port())
    command = (sys.executable, "-c", script, port)
    return Server(name=name, command=command, env={}, url=f"http://127.0.0.1:{port}", model=name)


def test_the_client_asks_the_servers_in_turn_after_a_warm_up(client: Client) -> None:
    outcomes = compare_servers(
        [server("a"), server("b")], client, 2, 30.0, client.results, lambda what: None
    )
    order = (client.results / "order").read_text().split("\n")[:-1]
    assert order == ["a 0", "b 0", "b 1", "a 1", "a 2", "b 2"]
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.figures == {key: [1, 2] for key in FIGURES}
        assert outcome.startup_s > 0
        assert outcome.peak_rss_bytes > 1 << 20


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (server("lossy"), "answered 31 of 32 requests"),
        (server("breaks"), "the client failed: the client broke"),
        (server("dies", "raise SystemExit('no such model')"), "did not start.*no such model"),
        (server("mute", "import time; time.sleep(600)"), "did not start"),
    ],
    ids=["lossy", "breaks", "dies", "mute"],
)
def test_a_server_that_fails_does_so_alone(bad: Server, message: str, client: Client) -> None:
    timeout_s = 8.0 if bad.name == "mute" else 30.0  # the good one must start in it too
    first, second = compare_servers(
        [bad, server("good")], client, 1, timeout_s, client.results, lambda what: None
    )
    assert first.error is not None
    assert re.search(message, first.error, re.DOTALL), first.error
    assert first.figures == {}
    assert second.error is None
    assert second.figures["output_tok_s"] == [1]


def test_no_servers_is_no_outcome(client: Client) -> None:
    assert compare_servers([], client, 1, 1.0, client.results, lambda what: None) == []
