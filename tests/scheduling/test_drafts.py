"""Guessed tokens: whatever is guessed, and rejected, a sequence ends at the same tokens."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.models.cache import CacheSpec, Latent, Sliding, State
from flaxen.protocol import SamplingParams
from flaxen.scheduling.cache.groups import CacheGroup, group_layers, most_pages
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from tests.scheduling.device import FakeEngine, check_pages, next_token
from tests.scheduling.groups import FULL, groups

SLIDING = st.builds(Sliding, num_kv_heads=st.just(1), head_dim=st.just(2), window=st.integers(1, 9))
LAYERS = st.just(FULL) | SLIDING | SLIDING | st.just(Latent(rank=3, rope_dim=1))


@settings(max_examples=60, deadline=None)
@given(
    specs=st.lists(LAYERS, min_size=1, max_size=3),
    page_size=st.integers(1, 4),
    num_more_pages=st.integers(0, 40),
    chunk=st.integers(4, 24),
    depth=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_drafts_change_no_token(
    specs: list[CacheSpec], page_size: int, num_more_pages: int, chunk: int, depth: int, seed: int
) -> None:
    rng = random.Random(seed)
    config = EngineConfig(
        max_model_len=40,
        groups=tuple(
            CacheGroup(
                spec=spec,
                layers=layers,
                num_pages=most_pages(spec, 40, chunk, page_size) + num_more_pages,
            )
            for spec, layers in group_layers(specs).items()
        ),
        page_size=page_size,
        max_num_seqs=3,
        max_num_batched_tokens=chunk,
        num_spec_tokens=3,
    )
    engine = FakeEngine(config)
    for _ in range(4):
        prompt = [rng.randrange(3) for _ in range(rng.randint(1, 12))]
        engine.add(prompt, SamplingParams(max_tokens=None, ignore_eos=True))
    num_drafts = 0
    while engine.alive or engine.outstanding:
        drafts = {sequence: rng.randint(0, 3) for sequence in engine.running}
        plan = engine.step(drafts=drafts, num_right=rng.randint(0, 3))
        num_drafts += sum(item.num_drafts for item in plan.items)
        check_pages(engine)
        if not plan.items or len(engine.outstanding) > depth:
            engine.deliver()
            check_pages(engine)
    assert num_drafts > 0
    for sequence in engine.truth:
        assert len(sequence.tokens) == 40
        for end in range(sequence.num_prompt_tokens, 40):
            assert sequence.tokens[end] == next_token(sequence.tokens[:end])


def decoding(*specs: CacheSpec) -> tuple[Scheduler, Sequence]:
    """A sequence of five known tokens, which waits for its next one."""
    config = EngineConfig(
        max_model_len=32, groups=groups(specs, 16), page_size=2, max_num_seqs=2,
        max_num_batched_tokens=16,
        num_spec_tokens=0 if any(isinstance(spec, State) for spec in specs) else 5,
    )  # fmt: skip
    scheduler = Scheduler(config)
    sequence = Sequence(
        request_id="r", index=0, sampling=SamplingParams(max_tokens=16), tokens=[1, 2, 3, 4],
        num_prompt_tokens=4,
    )  # fmt: skip
    scheduler.add(sequence)
    scheduler.schedule()
    scheduler.append(sequence, 5)
    return scheduler, sequence


def test_pages_of_rejected_drafts_are_freed() -> None:
    scheduler, sequence = decoding(FULL)
    [item] = scheduler.schedule({sequence: 5}).items
    assert (item.start, item.num_tokens, item.num_drafts) == (4, 6, 5)
    assert (len(sequence.pages[0]), sequence.num_in_flight, sequence.num_rejectable) == (5, 6, 5)
    scheduler.settle_drafts(sequence, 5, 1)
    assert (sequence.num_computed_tokens, len(sequence.pages[0])) == (6, 3)
    assert (sequence.num_in_flight, sequence.num_rejectable) == (2, 0)
    for token in (6, 7):
        scheduler.append(sequence, token)
    assert scheduler.schedule().items[0].start == 6


def test_a_window_keeps_its_pages_until_drafts_are_accepted() -> None:
    scheduler, sequence = decoding(Sliding(num_kv_heads=1, head_dim=2, window=2))
    scheduler.schedule({sequence: 4})  # computes the positions 4 to 8
    scheduler.schedule()  # position 9, or any from 5 on, which sees position 4
    assert -1 not in sequence.pages[0][2:]
    scheduler.settle_drafts(sequence, 4, 0)
    assert (sequence.num_computed_tokens, len(sequence.pages[0])) == (6, 3)


def test_beside_a_state_nothing_is_guessed() -> None:
    scheduler, sequence = decoding(FULL, State(shapes=((2,),)))
    [item] = scheduler.schedule({sequence: 5}).items
    assert (item.num_tokens, item.num_drafts) == (1, 0)
