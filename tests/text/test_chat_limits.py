"""No template may take the server's time or memory, whatever it does."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flaxen.text import chat_process
from flaxen.text.chat import ChatTemplate
from flaxen.text.chat_process import TemplateTimeoutError

USER = [{"role": "user", "content": "Hi"}]
TIMEOUT_S = 0.4

# "one" is 1 that Jinja can't compute with when it compiles.
ONE = "{% set one = messages | length %}"
NESTED_RANGES = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
# Lists of lists, equal and not the same: comparing them takes 2**60 steps, all in one call.
NESTED_LISTS = (
    "{% set ns = namespace(a=[one], b=[one]) %}"
    "{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
    "{{ ns.a == ns.b }}"
)
ENDLESS = {
    "a range too long": "{% for i in range(10**12 * one) %}{% endfor %}",
    "ranges in ranges": NESTED_RANGES,
    "one power": "{{ 10 ** (10 ** (9 * one)) }}",
    "one power, at compile time": "{{ 10 ** (10 ** 9) }}",
    "one comparison": NESTED_LISTS,
    "one product": "{{ 'a' * (10 ** 10 * one) }}",
    "one product, at compile time": "{{ 'a' * 10 ** 10 }}",
    "a list": "{{ [one] * 10 ** 10 }}",
    "padding": "{{ 'a'.center(10 ** 10 * one) }}",
    "a filter": "{{ 'a' | center(10 ** 10 * one) }}",
    "printf": "{{ '%10000000000s' | format(one) }}",
    "format": "{{ '{:>10000000000}'.format(one) }}",
    "doubling": "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(one) }}",
    "macros that call two": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(99 * one) }}",
    "long output": "{% for i in range(99999) %}{% for j in range(99999) %}abcdefgh{% endfor %}"
    "{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_hostile_templates_end_in_time_with_an_error(name: str) -> None:
    begin = time.monotonic()
    with pytest.raises(
        ValueError, match=r"chat template (took longer|needed more|rendered more|failed)"
    ):
        ChatTemplate(ONE + ENDLESS[name], bos_token="", eos_token="", timeout_s=TIMEOUT_S).render(
            USER
        )
    # Starting the process is not the template's time; a busy machine may take long over it.
    assert time.monotonic() - begin < 2 * TIMEOUT_S + 20


def test_each_limit_is_named() -> None:
    limits = {"timeout_s": 0.3, "max_chars": 100, "max_bytes": 50_000_000}
    messages = {
        NESTED_RANGES: r"took longer than 0.3 s, its limit: send fewer messages, or give",
        "{{ 'a' * (101 * one) }}": r"rendered more than 100 characters, its limit: send fewer",
        "{{ 'a' * (10**9 * one) }}": r"needed more than 50 MB of memory, its limit: send fewer",
    }
    for source, message in messages.items():
        template = ChatTemplate(ONE + source, bos_token="", eos_token="", **limits)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            template.render(USER)
        template.close()


def test_a_template_works_again_after_a_limit_killed_it() -> None:
    source = ONE + "{% if one > 1 %}" + NESTED_RANGES + "{% endif %}{{ one }}"
    template = ChatTemplate(source, bos_token="", eos_token="", timeout_s=TIMEOUT_S)
    assert template.render(USER) == "1"
    with pytest.raises(ValueError, match="took longer"):
        template.render(USER * 2)
    assert template.render(USER) == "1"
    template.close()


def test_an_interrupted_render_leaves_nothing_to_the_next() -> None:
    source = ONE + "{% if one > 1 %}" + NESTED_RANGES + "{% endif %}{{ one }}"
    template = ChatTemplate(source, bos_token="", eos_token="", timeout_s=5)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            template.render(USER * 2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert template.render(USER) == "1"
    template.close()


def test_a_python_without_jinja_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match=r"did not start \(exit code .*false must be a Python"):
        ChatTemplate("x", bos_token="", eos_token="")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception.__globals__.os }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    template = ChatTemplate(source, bos_token="", eos_token="")
    with pytest.raises(ValueError, match=r"failed on these messages: (Security|Type)Error"):
        template.render(USER)
    template.close()


def children() -> set[int]:
    """The processes that this one started and that still run."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_ends_with_the_template() -> None:
    before = children()
    template = ChatTemplate("{{ messages[0].content }}", bos_token="", eos_token="")
    assert len(children() - before) == 1
    del template
    gc.collect()
    assert children() <= before
    with pytest.raises(ValueError, match="not valid Jinja"):
        ChatTemplate("{% if %}", bos_token="", eos_token="")
    assert children() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXEN_API_KEY", "secret")
    monkeypatch.setenv("TZ", "UTC")
    before = children()
    template = ChatTemplate("{{ strftime_now('%Z%H') }}", bos_token="", eos_token="")
    (pid,) = children() - before
    names = {line.split(b"=")[0] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
    assert b"TZ" in names  # what it needs is there
    assert names <= {b"LD_LIBRARY_PATH", b"PYTHONHOME", b"PYTHONPATH", b"TZ", b""}
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    template.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_is_replaced() -> None:
    before = children()
    template = ChatTemplate("{{ messages[0].content }}", bos_token="", eos_token="")
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert template.render(USER) == "Hi"
    template.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("num_characters", [2, 1_000_000])
def test_a_process_that_is_stopped_is_replaced(num_characters: int) -> None:
    """A stopped process neither answers nor reads: writing more than a pipe holds must time out."""
    before = children()
    template = ChatTemplate(
        "{{ messages[0].content }}", bos_token="", eos_token="", timeout_s=TIMEOUT_S
    )
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    user = [{"role": "user", "content": "a" * num_characters}]
    with pytest.raises(TemplateTimeoutError, match=r"took longer than 0\.4 s"):
        template.render(user)
    assert template.render(USER) == "Hi"
    template.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_dies_while_it_renders_is_an_error() -> None:
    before = children()
    template = ChatTemplate(NESTED_RANGES, bos_token="", eos_token="", timeout_s=20)
    (pid,) = children() - before
    killer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(ValueError, match=r"ended its process \(exit code -9\): .* give the model"):
        template.render(USER)
    killer.join()
    template.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_does_not_outlive_a_server_that_is_killed() -> None:
    """The alarm ends it within its time limit and two seconds, though nobody reads its answer."""
    code = (
        "from flaxen.text.chat_process import TemplateProcess\n"
        f"t = TemplateProcess({ONE + NESTED_RANGES!r}, timeout_s=1, max_chars=9, max_bytes=10**9)\n"
        "print(t._process.pid, flush=True)\n"
        "t.render({'messages': [{'role': 'user', 'content': 'Hi'}]})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        worker = Path(f"/proc/{int(server.stdout.readline())}")
        time.sleep(0.3)
        server.kill()
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in worker.joinpath("stat").read_text().split():
        assert time.monotonic() < deadline, "the process outlived its parent and its alarm"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0", id="part-of-a-header"),
        pytest.param(struct.pack(">Q", 9) + b"{}", id="part-of-a-request"),
        pytest.param(struct.pack(">Q", 15) + b'{"source": "x"}', id="a-request"),
    ],
)
@pytest.mark.parametrize("reads", [False, True], ids=["nobody-reads", "somebody-reads"])
def test_the_process_says_nothing_when_its_parent_has_ended(sent: bytes, reads: bool) -> None:
    limits = json.dumps({"alarm_s": 5, "max_bytes": 10**9})
    worker = Path(chat_process.__file__).with_name("chat_worker.py")
    read_end, write_end = os.pipe()
    if not reads:
        os.close(read_end)
    process = subprocess.Popen(
        [sys.executable, "-P", str(worker), limits],
        stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write_end)
    _, errors = process.communicate(sent, timeout=30)
    if reads:
        os.close(read_end)
    assert (process.returncode, errors) == (0, b"")


def test_a_probe_that_took_too_long_says_nothing_of_the_template() -> None:
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    source = (
        "{% set part = messages[0].content[0] %}{% if part.text is defined %}"
        "{% if part.text == 'flaxen-probe' %}" + slow + "{% endif %}{% endif %}joined"
    )
    template = ChatTemplate(source, bos_token="", eos_token="", timeout_s=TIMEOUT_S)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    for _ in range(2):  # the second is not told that lists are not read
        with pytest.raises(TemplateTimeoutError, match=r"took longer than 0\.4 s"):
            template.render(parts)
    template.close()


def test_compiling_has_its_own_time() -> None:
    source = "{{ messages[0].content }}" + "{% if messages %}{% endif %}" * 3000
    template = ChatTemplate(source, bos_token="", eos_token="", timeout_s=0.1)
    assert template.render(USER) == "Hi"
    template.close()
