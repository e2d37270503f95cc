"""Programs are compiled beside the steps, preferably while no request runs."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.background_compiler import BackgroundCompiler
from tests.engine.fakes import FakeExecutor, fake_engine


class Programs:
    """Some programs to compile, each of which may be held up or fail."""

    def __init__(self, num: int = 3, *, fails: bool = False) -> None:
        self.num_left, self.fails = num, fails
        self.may_go = threading.Event()
        self.may_go.set()
        self.is_in_one = threading.Event()

    def compile_next(self) -> bool:
        self.is_in_one.set()
        self.may_go.wait(5)
        if self.fails:
            raise RuntimeError("no memory")
        self.num_left -= 1
        return self.num_left > 0


def until(condition: object, timeout_s: float = 5) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.002)


def test_all_are_compiled_and_the_thread_ends() -> None:
    programs = Programs()
    compiler = BackgroundCompiler(programs.compile_next, lambda: False, after_s=0)
    until(lambda: programs.num_left == 0)
    compiler.stop().join()


def test_stop_waits_for_the_one_that_is_compiled_and_for_no_more() -> None:
    programs = Programs(100)
    programs.may_go.clear()
    compiler = BackgroundCompiler(programs.compile_next, lambda: False, after_s=0)
    assert programs.is_in_one.wait(5)
    stopping = threading.Thread(target=lambda: compiler.stop().join())
    stopping.start()
    assert stopping.is_alive()
    programs.may_go.set()
    stopping.join(5)
    assert not stopping.is_alive()
    assert programs.num_left == 99


def test_requests_go_first_but_not_for_ever() -> None:
    programs = Programs(1)
    begin_s = time.monotonic()
    compiler = BackgroundCompiler(programs.compile_next, lambda: True, after_s=0, patience_s=0.1)
    until(lambda: programs.num_left == 0)
    assert time.monotonic() - begin_s > 0.1
    compiler.stop().join()


def test_nothing_is_compiled_before_its_time() -> None:
    programs = Programs()
    compiler = BackgroundCompiler(programs.compile_next, lambda: False, after_s=60)
    compiler.stop().join()
    assert programs.num_left == 3


def test_a_failure_is_logged_and_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    programs = Programs(fails=True)
    with caplog.at_level(logging.ERROR):
        compiler = BackgroundCompiler(programs.compile_next, lambda: False, after_s=0)
        until(lambda: "no longer compiled in advance" in caplog.text)
        compiler.stop().join()
    assert "no memory" in caplog.text


class ColdExecutor(FakeExecutor):
    """Has three programs to compile, on any thread but the engine's."""

    def __init__(self) -> None:
        FakeExecutor.__init__(self)
        self.threads: list[str] = []

    def warm_up(self) -> bool:
        self.threads.append(threading.current_thread().name)
        return len(self.threads) < 3


def test_an_engine_compiles_on_a_thread_of_its_own() -> None:
    executor = ColdExecutor()
    with AsyncEngine(fake_engine(executor=executor), compile_after_s=0):
        until(lambda: len(executor.threads) == 3)
    assert set(executor.threads) == {"flaxen-compile"}
