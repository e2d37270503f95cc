"""A signal at the prompt of `flaxen chat` leaves the terminal as it was."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PROGRAM = "import sys; from flaxen.cli.start import main; sys.exit(main())"


class Models(BaseHTTPRequestHandler):
    """A server that has one model and answers nothing."""

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "tiny"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
