"""`flaxen route FILE` as a process, and the option --router of `flaxen serve`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.main import main
from flaxen.cli.serve.router_options import RouterOptions

_FILE = """
version: v0.3
providers:
  models:
    - {name: one, backend_refs: [{endpoint: "ADDRESS", api_key: "${ONE_KEY}"}]}
routing:
  signals: {keywords: [{name: sums, operator: OR, keywords: [sum]}]}
  decisions:
    - name: math
      rules: {type: keyword, name: sums}
      modelRefs: [{model: one}]
"""
# As `python -m flaxen`, where whatever imports JAX fails.
_WITHOUT_JAX = (
    "import sys; sys.modules['jax'] = None; from flaxen.cli.start import main; sys.exit(main())"
)


class Model(BaseHTTPRequestHandler):
    """A server of a model, which says what it was sent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        told = json.dumps({"key": self.headers["authorization"], "body": body}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.slow
def test_a_proxy_before_a_server(tmp_path: Path) -> None:
    model = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    path = tmp_path / "router.yaml"
    path.write_text(_FILE.replace("ADDRESS", f"127.0.0.1:{model.server_port}"))
    process = subprocess.Popen(
        [sys.executable, "-c", _WITHOUT_JAX, "route", str(path), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={"ONE_KEY": "secret", "PATH": ""},
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "is served on" in line)
        found = re.search(r"router.yaml is served on (http://\S+) ", line)
        assert found is not None
        body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "a sum"}]}
        answer, headers = ask(found[1], body)
        assert answer == {"key": "Bearer secret", "body": body | {"model": "one"}}
        assert headers["x-vsr-selected-decision"] == "math"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(found[1], {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        model.shutdown()
        model.server_close()


def ask(url: str, body: dict[str, Any]) -> tuple[Any, Any]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer), answer.headers


def test_a_wrong_file_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(_FILE.replace("decisions:", "decision:"))
    told = r"line 9: routing\.decision: unknown key: did you mean decisions\?"
    assert main(["route", str(path)]) == 2
    assert re.search(told, capsys.readouterr().err)
    with pytest.raises(ValueError, match=told):
        RouterOptions(router=path).file()
    assert RouterOptions().file() is None
