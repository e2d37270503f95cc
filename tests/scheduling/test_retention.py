"""What sessions keep of the pool, and when it goes: case by case, on a clock by hand."""

from __future__ import annotations

from typing import Literal

import pytest

from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from tests.scheduling.groups import full


class Pool:
    """A scheduler of 16 pages of 4 tokens, whose sequences end after one token."""

    def __init__(self) -> None:
        self.now = 0.0
        config = EngineConfig(
            max_model_len=40, groups=full(16), page_size=4, max_num_seqs=2,
            max_num_batched_tokens=64,
        )  # fmt: skip
        self.scheduler = Scheduler(config, clock=lambda: self.now)
        self.num = 0

    def ask(
        self, start: int, num_tokens: int = 16, session: str = "", salt: str = "",
        retention: float | Literal["done", "drop"] | None = None,
    ) -> int:  # fmt: skip
        """How many tokens of the prompt were cached."""
        self.num += 1
        sequence = Sequence(
            request_id=f"{self.num}", index=0, sampling=SamplingParams(max_tokens=1),
            tokens=list(range(start, start + num_tokens)), num_prompt_tokens=num_tokens,
            cache_salt=salt, session=(session,), retention=retention,
        )  # fmt: skip
        self.scheduler.add(sequence)
        self.scheduler.schedule()
        self.scheduler.append(sequence, 0)
        self.scheduler.end(sequence)
        self.scheduler.pools.check_invariants()
        assert sequence.num_cached_tokens is not None
        return sequence.num_cached_tokens

    def others(self, num: int = 3) -> None:
        """Prompts that want more than the pool has, if there are several."""
        for _ in range(num):
            self.ask(1000 * (self.num + 1), 28)


def test_a_session_is_kept_while_others_come_and_others_are_not() -> None:
    pool = Pool()
    pool.ask(0, session="a", retention=60)
    pool.ask(100)
    pool.others()
    assert pool.ask(0, session="a", retention=60) == 12
    assert pool.ask(100) == 0


def test_it_goes_when_its_time_is_over_or_the_session_is_done() -> None:
    for retention in ("done", "drop", None):
        pool = Pool()
        pool.ask(0, session="a", retention=60)
        pool.ask(500, session="b", retention=60)
        if retention is None:
            pool.now = 61.0
        else:
            pool.ask(0, session="a", retention=retention)
        pool.others()
        assert pool.ask(0) == 0
        assert pool.ask(500) == (0 if retention is None else 12)


def test_expired_pages_go_before_those_that_were_used_long_ago() -> None:
    pool = Pool()
    pool.ask(100, 12)
    pool.ask(0, 16, session="a", retention=60)
    pool.now = 60.0
    pool.others(2)  # 14 pages, of which 9 are empty: 4 of the session, and one more
    assert pool.ask(100, 12) == 8
    assert pool.ask(0) == 0


def test_a_dropped_request_goes_first_but_not_what_it_found() -> None:
    pool = Pool()
    pool.ask(100, 12)
    pool.ask(100, 28, retention="drop")  # 3 pages are found, and 4 are its own
    pool.ask(200, 16)
    pool.ask(300, 32)  # 8 pages, of which 5 are empty
    assert pool.ask(200, 16) == 12
    assert pool.ask(100, 28) == 12


def test_a_turn_replaces_what_its_session_kept() -> None:
    pool = Pool()
    for turn in range(1, 8):
        assert pool.ask(0, 4 * turn, session="a", retention=60) == max(0, 4 * turn - 4)
        assert pool.scheduler.pools.pools[0].num_kept == turn


def test_half_of_the_pool_is_kept_at_most_and_who_came_first_stays_for_a_while() -> None:
    pool = Pool()
    sessions = (("a", 0), ("b", 100), ("c", 200))
    for name, start in sessions:
        pool.ask(start, session=name, retention=600)
    assert pool.scheduler.pools.pools[0].num_kept == 8
    pool.others()
    assert [pool.ask(start) for _, start in sessions] == [12, 12, 0]
    pool.now = 59.0
    pool.ask(100, session="b", retention=600)  # is back
    pool.now = 61.0
    pool.ask(200, session="c", retention=600)  # takes the place of the one that is not
    pool.others()
    assert [pool.ask(start) for _, start in sessions] == [0, 12, 12]
    pool.now = 200.0
    pool.ask(0, 36, session="d", retention=60)
    assert pool.scheduler.pools.pools[0].num_kept == 8  # of the 9, the first


def test_what_two_sessions_share_is_counted_once() -> None:
    pool = Pool()
    pool.ask(0, 24, session="a", retention=60)
    pool.ask(0, 28, session="b", retention=60)  # 7 pages in all, of the 8 that are kept at most
    pool.ask(900, 4, session="a", retention="done")
    pool.others()
    assert pool.ask(0, 28) == 24


def test_one_tenant_does_not_end_the_session_of_another() -> None:
    pool = Pool()
    pool.ask(0, session="a", salt="mine", retention=60)
    pool.ask(500, session="a", salt="other", retention="done")
    pool.others()
    assert pool.ask(0, salt="mine") == 12


def test_everybody_runs_although_half_is_kept() -> None:
    pool = Pool()
    for name in "abc":
        pool.ask(100 * ord(name), 32, session=name, retention=60)
    sequences = [
        Sequence(
            request_id=f"s{i}", index=0, sampling=SamplingParams(max_tokens=1),
            tokens=list(range(5000 * i, 5000 * i + 24)), num_prompt_tokens=24,
        )
        for i in range(2)
    ]  # fmt: skip
    for each in sequences:
        pool.scheduler.add(each)
    assert len(pool.scheduler.schedule().items) == 2


def test_a_request_says_for_how_long() -> None:
    def request(**fields: object) -> Request:
        return Request(request_id="r", prompt_token_ids=(1,), **fields)  # type: ignore[arg-type]

    assert request().retention is None
    assert request(session_id="s").retention == 300
    assert request(session_id="s", retention=5).retention == 5
    for wrong in (0, -1, 86401, float("nan"), True, "for ever"):
        with pytest.raises(ValueError, match="retention must be above 0 and at most 86400 seconds"):
            request(retention=wrong)
