"""The tokens of each expert that an engine counts = its sequences' routing, without padding."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.models import attention_impls
from tests.engine.fakes import spelled
from tests.engine.tiny import EOS_ID, ONE_SHAPE, make_engine, request, run
from tests.models.tiny_experts import MODEL, params_for
from tests.scheduling.groups import groups

CONFIG = replace(ONE_SHAPE, groups=groups(MODEL.cache_specs, 64))
PARAMS = params_for(MODEL.backend)


def routed(tokens: list[int]) -> list[np.ndarray]:
    """The tokens of each expert, for each layer with experts, by one whole forward."""
    positions = jnp.arange(len(tokens), dtype=jnp.int32)[None]
    attend = attention_impls.causal(None, MODEL.backend)
    ids = jnp.asarray([tokens])
    _, _, routings = MODEL.routed_forward(PARAMS, ids, positions, attend, (None,) * 3)
    return [np.bincount(np.asarray(each.ids).reshape(-1), minlength=5) for each in routings]


def test_each_computed_token_counts_once_for_each_of_its_experts() -> None:
    executor = JaxExecutor(
        MODEL,
        PARAMS,
        CONFIG,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )
    engine = make_engine(CONFIG, executor=executor)
    assert engine.stats().expert_tokens == ((0,) * 5, (0,) * 5)
    rng = np.random.default_rng(0)
    # A step has 64 rows: most are padding when one token of each sequence is computed.
    texts = [rng.integers(3, 61, size).tolist() for size in (5, 19, 70)]
    outputs = run(engine, [request(str(i), text, max_tokens=4 + i) for i, text in enumerate(texts)])
    # The last token of a sequence is never computed.
    computed = [
        [*text, *output.outputs[0].token_ids[:-1]]
        for text, output in zip(texts, outputs, strict=True)
    ]
    expected = sum(np.asarray(routed(tokens)) for tokens in computed)
    assert np.asarray(engine.stats().expert_tokens).tolist() == expected.tolist()
    assert expected.sum(axis=1).tolist() == [k * sum(map(len, computed)) for k in (2, 3)]
