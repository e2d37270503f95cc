"""A Ctrl-C ends what it interrupts, even if native code drops the exception."""

from __future__ import annotations

import contextlib
import signal

import pytest

from flaxen.cli.interrupt import interruptible


def interrupted(drops: bool, reached: list[bool]) -> None:
    with interruptible():
        with contextlib.suppress(*([KeyboardInterrupt] if drops else [])):
            signal.raise_signal(signal.SIGINT)
        reached.append(True)


@pytest.mark.parametrize("drops", [False, True])
def test_an_interrupt_is_raised_at_once_or_at_the_end(drops: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    reached: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(drops, reached)
    assert reached == [True] * drops
    assert signal.getsignal(signal.SIGINT) is before


def test_without_one_nothing_is_raised() -> None:
    with interruptible():
        pass
