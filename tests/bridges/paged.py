"""A model's scores over pages, in steps that are all of one shape, so that it is compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls, layer_cache
from flaxen.models.cache import attention_only
from flaxen.models.model import Model

PAGE = 16
Step = Sequence[tuple[int, int, int]]  # of (prompt, first token, last token + 1)


def paged_scores(
    model: Model, params: Any, prompts: Sequence[np.ndarray], steps: Sequence[Step]
) -> list[np.ndarray]:
    """Each prompt's scores [T, V], computed in steps; a step is padded as the engine pads it."""
    pages = -(-max(map(len, prompts)) // PAGE)
    num_tokens = sum(map(len, prompts))
    cache: tuple[Any, ...] = tuple(
        layer_cache.empty_layer(
            spec, len(prompts) * pages, PAGE, jnp.dtype("float32"), backend=model.backend
        )
        for spec in attention_only(model.cache_specs)
    )  # fmt: skip
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for step in steps:
        lengths = [stop - start for _, start, stop in step]
        absent = len(prompts) - len(step)
        ends = np.cumsum(lengths)
        batch = PagedBatch(
            kv_lens=jnp.array([*(stop for *_, stop in step), *[0] * absent], jnp.int32),
            page_table=jnp.array(
                [[pages * i + j for j in range(pages)] for i, *_ in step] + [[0] * pages] * absent,
                jnp.int32,
            ),
            cu_q_lens=jnp.array([0, *ends, *[ends[-1]] * absent], jnp.int32),
        )
        tokens, positions = np.full(num_tokens, -1, np.int32), np.zeros(num_tokens, np.int32)
        tokens[: ends[-1]] = np.concatenate([prompts[i][start:stop] for i, start, stop in step])
        positions[: ends[-1]] = np.concatenate([np.arange(start, stop) for _, start, stop in step])
        hidden, cache = model.forward(
            params,
            jnp.asarray(tokens),
            jnp.asarray(positions),
            attention_impls.paged((batch,), model.backend),
            cache,
        )
        scores = np.asarray(model.unembed(params, hidden))[: ends[-1]]
        for (index, *_), each in zip(step, np.split(scores, ends[:-1]), strict=True):
            found[index].append(each)
    return [np.concatenate(each) for each in found]
