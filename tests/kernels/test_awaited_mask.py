"""A compiled function waits for its ticket's mask, which comes after the call."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.awaited_mask import NO_TICKET, Tickets, awaited_mask, can_await
from flaxen.kernels.backend import Backend

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

ALL = 0xFFFF_FFFF
SHAPE = 3, 2
MASK = np.array([[1, 2], [3, ALL]], np.uint32)
PADDED = [*MASK.tolist(), [ALL, ALL]]


@functools.partial(jax.jit, static_argnums=2)
def masked(ticket: jax.Array, x: jax.Array, timeout_s: float) -> jax.Array:
    """A mask, after enough work that XLA does not do all of it in the call."""
    return awaited_mask(ticket, x @ x, SHAPE, timeout_s=timeout_s)


def start(ticket: np.uint32, timeout_s: float = 60.0) -> jax.Array:
    found: jax.Array = masked(ticket, jnp.ones((32, 32)), timeout_s)
    return found


def test_it_comes_after_the_call() -> None:
    tickets = Tickets()
    for _ in range(3):
        ticket = tickets.open()
        found = start(ticket)
        time.sleep(0.02)
        assert not found.is_ready()  # type: ignore[attr-defined]
        tickets.publish(ticket, MASK)
        assert found.tolist() == PADDED
    tickets.close()


def test_it_may_come_before_the_call_and_is_kept() -> None:
    tickets = Tickets()
    ticket = tickets.open()
    tickets.publish(ticket, MASK)
    for _ in range(2):
        assert start(ticket).tolist() == PADDED
    tickets.open()
    assert start(ticket).tolist() == PADDED
    tickets.close()


def test_a_closed_ticket_lets_everything_through() -> None:
    tickets = Tickets()
    ticket = tickets.open()
    found = start(ticket)
    tickets.close()
    for late in (found, start(ticket), start(NO_TICKET)):
        assert late.tolist() == [[ALL, ALL]] * 3
    tickets.publish(ticket, MASK)
    assert start(ticket).tolist() == [[ALL, ALL]] * 3


def test_each_caller_has_tickets_of_its_own() -> None:
    mine, others = Tickets(), Tickets()
    ticket, other = mine.open(), others.open()
    found = start(ticket)
    others.publish(other, MASK + 1)
    others.close()
    assert not found.is_ready()  # type: ignore[attr-defined]
    mine.publish(ticket, MASK)
    assert found.tolist() == PADDED
    mine.close()


def test_the_wait_has_an_end() -> None:
    tickets = Tickets()
    found = start(tickets.open(), timeout_s=0.05)
    with pytest.raises(Exception, match="the tokens that a step's grammars allow did not come in"):
        found.block_until_ready()
    tickets.close()


def test_calls_that_wait_for_what_they_compute_have_none() -> None:
    assert can_await(Backend.CPU)
    assert not can_await(Backend.REFERENCE)
    with jax.debug_nans(True):
        assert not can_await(Backend.CPU)
