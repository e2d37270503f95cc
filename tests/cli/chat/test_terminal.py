"""`flaxen chat` on a terminal: signals leave it as it was, and a pasted text is one message."""

from __future__ import annotations

import json
import os
import pty
import readline
import signal
import subprocess
import sys
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flaxen.cli.chat.terminal import default_history, recall

PROGRAM = "import sys; from flaxen.cli.start import main; sys.exit(main())"


class Models(BaseHTTPRequestHandler):
    """A server that has a model and an adapter, and answers each message with its last word."""

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "tiny"}, {"id": "mine"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = body["messages"][-1]["content"].split()[-1]
        chunk = {"choices": [{"delta": {"content": f"<{word}>"}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_the_prompt_restores_the_terminal(number: signal.Signals, code: int) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    url = f"http://127.0.0.1:{server.server_port}"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "chat", "--url", url],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    try:
        seen = b""
        while b"> " not in seen:
            seen += os.read(ours, 4096)
        if number == signal.SIGINT:  # the first one only discards what was typed
            os.write(ours, b"half a mess")
            process.send_signal(number)
            seen = b""
            while b"Ctrl-C again ends" not in seen or not seen.rstrip().endswith(b">"):
                seen += os.read(ours, 4096)
        process.send_signal(number)
        assert process.wait(30) == code
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
        os.close(ours)
        os.close(theirs)


@pytest.mark.timeout(60)
@pytest.mark.skipif("GNU" not in (readline.__doc__ or ""), reason="libedit knows no marked pastes")
def test_a_pasted_text_is_one_message_and_kept_for_the_next_run(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ours, theirs = pty.openpty()
    url = f"http://127.0.0.1:{server.server_port}"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "chat", "--url", url],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"},
    )  # fmt: skip
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096)
        seen = seen.partition(text)[2]

    try:
        wait_for(b"> ")
        os.write(ours, b"\x1b[200~first line\nlast line\x1b[201~")
        os.write(ours, b"\r")
        wait_for(b"<line>")
        wait_for(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(30) == 0
        kept = (tmp_path / "flaxen" / "chat_history").read_text()
        assert kept == '"first line\\nlast line"\n'
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
        os.close(ours)
        os.close(theirs)


@pytest.mark.timeout(60)
def test_a_history_that_can_not_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ours, theirs = pty.openpty()
    url = f"http://127.0.0.1:{server.server_port}"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "chat", "--url", url],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "file")},
    )  # fmt: skip
    try:
        os.write(ours, b"hello\n")
        seen = b""
        while b"<hello>" not in seen:
            seen += os.read(ours, 4096)
        assert b"The server also has mine: flaxen chat --url " in seen
        assert seen.count(b"[the history is not kept: ") == 1
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
        os.close(ours)
        os.close(theirs)


RAISES_BEFORE_THE_WAIT = """
import ctypes, functools, readline, signal
from flaxen.cli.interrupt import end_at_signals, unwind_first

# A C function, called from C: Python runs no bytecode, and so no handler, before readline waits.
raise_signal = functools.partial(ctypes.CDLL(None)["raise"], int(signal.SIGTERM))
readline.set_pre_input_hook(raise_signal)
end_at_signals()
unwind_first(lambda: input("> "))
"""


@pytest.mark.timeout(60)
def test_a_signal_just_before_the_wait_for_a_key_ends_the_process() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", RAISES_BEFORE_THE_WAIT],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.wait(30) == 143
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


UNWINDS_SLOWLY = """
import termios, time
from flaxen.cli.interrupt import end_at_signals, unwind_first

def read():
    settings = termios.tcgetattr(0)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, settings)
    try:
        print("reads", flush=True)
        time.sleep(60)
    finally:
        print("unwinds", flush=True)
        time.sleep(60)

end_at_signals()
unwind_first(read)
"""


@pytest.mark.timeout(60)
def test_a_second_signal_restores_the_terminal_before_the_first_has() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", UNWINDS_SLOWLY],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    try:
        seen = b""
        for word in (b"reads", b"unwinds"):
            while word not in seen:
                seen += os.read(ours, 4096)
            assert termios.tcgetattr(theirs) != before
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_the_file_follows_xdg(tmp_path: Path) -> None:
    own = tmp_path / "flaxen" / "chat_history"
    assert default_history({"XDG_STATE_HOME": str(tmp_path)}) == own
    home = tmp_path / ".local" / "state" / "flaxen" / "chat_history"
    assert default_history({}, lambda: tmp_path) == home


def test_a_user_without_a_home_can_chat() -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")  # as Path.home does

    assert default_history({}, no_home) is None
    recall(None)("nothing is kept")
