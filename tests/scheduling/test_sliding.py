"""What a window frees, and what it takes: Mistral's at 32,768 tokens, in the real scheduler."""

from __future__ import annotations

import pytest

from flaxen.models.cache import CacheSpec, Full, Sliding
from flaxen.protocol import SamplingParams
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import NO_PAGE, Sequence

CONTEXT, WINDOW, CHUNK, PAGE_SIZE = 32_768, 4096, 512, 16
MISTRAL: list[CacheSpec] = [Sliding(num_kv_heads=8, head_dim=128, window=WINDOW)] * 32
MIXED: list[CacheSpec] = [*MISTRAL[:16], *[Full(num_kv_heads=8, head_dim=128)] * 16]


def config_of(specs: list[CacheSpec], num_bytes: int) -> EngineConfig:
    sizes = CacheSizes(specs=specs, page_size=PAGE_SIZE, itemsize=2, chunk=CHUNK, max_num_seqs=8)
    return EngineConfig(
        max_model_len=CONTEXT, groups=sizes.divide(num_bytes, CONTEXT), page_size=PAGE_SIZE,
        max_num_seqs=8, max_num_batched_tokens=CHUNK,
    )  # fmt: skip


def owned_pages(scheduler: Scheduler, num_prompt: int) -> list[int]:
    """The most pages that a sequence owned in each group, on its way through prompt and output."""
    sequence = Sequence(
        request_id="r", index=0, sampling=SamplingParams(max_tokens=None, ignore_eos=True),
        tokens=list(range(num_prompt)), num_prompt_tokens=num_prompt,
    )  # fmt: skip
    scheduler.add(sequence)
    most = [0] * len(scheduler.config.groups)
    while len(sequence.tokens) < CONTEXT:
        [item] = scheduler.schedule().items
        owned = [len(pages) - pages.count(NO_PAGE) for pages in sequence.pages]
        most = list(map(max, most, owned))
        assert scheduler.pools.num_used == sum(owned)
        if item.samples:
            scheduler.append(sequence, 0)
    scheduler.end(sequence)
    assert scheduler.pools.num_used == 0
    return most


@pytest.mark.parametrize("num_prompt", [CONTEXT - 100, 1000])
def test_a_window_holds_its_tokens_and_a_chunk(num_prompt: int) -> None:
    scheduler = Scheduler(config_of(MISTRAL, 2**30))
    [most] = owned_pages(scheduler, num_prompt)
    assert most * PAGE_SIZE <= WINDOW + CHUNK  # of 32,768


def test_layers_without_a_window_keep_all() -> None:
    scheduler = Scheduler(config_of(MIXED, 8 * 2**30))
    sliding, full = owned_pages(scheduler, CONTEXT - 100)
    assert full * PAGE_SIZE == CONTEXT
    assert sliding * PAGE_SIZE <= WINDOW + CHUNK


def test_a_window_serves_what_would_not_fit_without() -> None:
    """In 640 MiB, one sequence of 32,768 tokens: without the window it would take 4 GiB."""
    num_bytes = 640 * 2**20
    scheduler = Scheduler(config_of(MISTRAL, num_bytes))
    assert owned_pages(scheduler, CONTEXT - 100)
    with pytest.raises(ValueError, match=r"which needs 4294967296: lower max_model_len to at most"):
        config_of([Full(num_kv_heads=8, head_dim=128)] * 32, num_bytes)
