"""Log-probabilities in each mode are those of a plain NumPy re-implementation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.results import to_host, token_logprobs
from flaxen.execution.sampling import BatchNeeds, sample
from flaxen.kernels.backend import Backend
from flaxen.protocol import LogprobsMode, TokenLogprobs
from flaxen.scheduling.sequence import Sequence
from flaxen.token_sampling.logprobs import Logprobs
from tests.engine.fakes import add, sequence_of
from tests.engine.tiny import make_engine, request, with_config
from tests.execution.test_sampling import adjusted, load

V, NUM_TOP = 40, 5
PROMPT = [20, 30, 40, 50, 60]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 3},
    {"temperature": 1.0, "min_p": 0.2, "top_p": 0.9},
    {"temperature": 0.5, "presence_penalty": 1.5, "repetition_penalty": 1.3},
    {"temperature": 2.0, "allowed_token_ids": (3, 5, 8, 13, 21), "top_k": 2},
    {"temperature": 0, "top_k": 1, "logit_bias": {7: 3.0}},
    {},
    {"temperature": 0.7, "top_k": 4, "logprob_token_ids": (9, 0, 33)},
]
SEQUENCES: list[Sequence] = [sequence_of([1, 2, 3], **each) for each in SETTINGS]
LOGITS = np.random.default_rng(0).normal(size=(len(SETTINGS), V)).astype(np.float32) * 2


def log_softmax(x: np.ndarray) -> np.ndarray:
    total: np.ndarray = x - np.log(np.sum(np.exp(x - x.max()))) - x.max()
    return total


def expected(row: int, mode: LogprobsMode) -> tuple[np.ndarray, float | None]:
    """A row's table, and the mass that its filters keep."""
    logits = LOGITS[row].astype(np.float64)
    if mode is LogprobsMode.RAW_LOGITS:
        return logits, None
    if mode is LogprobsMode.RAW_LOGPROBS:
        return log_softmax(logits), None
    sampling = SEQUENCES[row].sampling
    x = adjusted(SEQUENCES[row], LOGITS[row]).astype(np.float64)
    keeps = np.ones(V, bool)
    if sampling.temperature > 0:
        x = x / sampling.temperature
        keeps &= np.exp(x - x.max()) >= sampling.min_p
        if sampling.top_k:
            keeps &= x >= np.sort(np.where(keeps, x, -np.inf))[-sampling.top_k]
        probs = np.where(keeps, np.exp(x - x.max()), 0)
        likeliest = np.sort(probs)[::-1]
        reached = np.cumsum(likeliest) >= sampling.top_p * probs.sum()
        if sampling.top_p < 1:
            keeps &= probs >= likeliest[np.argmax(reached)]
    kept = np.where(keeps, x, -np.inf)
    mass = float(np.exp(log_softmax(x))[keeps].sum())
    return (kept if mode is LogprobsMode.PROCESSED_LOGITS else log_softmax(kept)), mass


def report(mode: LogprobsMode, *, wanted: bool = True) -> tuple[np.ndarray, Logprobs]:
    draw = jax.jit(
        functools.partial(sample, backend=Backend.REFERENCE, mode=mode), static_argnums=6
    )
    num = len(SEQUENCES)
    needs = BatchNeeds(np.bool_(True), np.bool_(wanted))  # type: ignore[arg-type]
    lengths = np.array([len(each.tokens) for each in SEQUENCES], np.int32)
    rows = load(SEQUENCES, V)
    sampled = draw(LOGITS, np.ones(num, bool), rows, np.arange(num), lengths, needs, NUM_TOP)
    return np.asarray(sampled.tokens), to_host(sampled.logprobs)


@pytest.mark.parametrize("mode", LogprobsMode)
def test_each_mode_reports_its_own_table(mode: LogprobsMode) -> None:
    tokens, found = report(mode)
    for row, token_id in enumerate(tokens.tolist()):
        table, mass = expected(row, mode)
        entry = token_logprobs(found, (row,), token_id, NUM_TOP)
        assert entry.logprob == pytest.approx(table[token_id], abs=1e-5)
        assert entry.rank == 1 + int(np.sum(table > table[token_id] + 1e-6))
        named = SEQUENCES[row].sampling.logprob_token_ids
        if named:
            assert [i for i, _ in entry.top[: len(named)]] == list(named)
            told = [value for _, value in entry.top[: len(named)]]
            np.testing.assert_allclose(told, table[list(named)], atol=1e-5)
            continue
        likeliest = np.sort(table)[::-1][:NUM_TOP]
        np.testing.assert_allclose([value for _, value in entry.top], likeliest, atol=1e-5)
        finite = [(i, value) for i, value in entry.top if np.isfinite(value)]
        np.testing.assert_allclose([v for _, v in finite], table[[i for i, _ in finite]], atol=1e-5)
        if mass is None:
            assert entry.kept_mass is None
        else:
            assert entry.kept_mass == pytest.approx(mass, abs=1e-5)


def test_filters_keep_less_than_all() -> None:
    _, found = report(LogprobsMode.PROCESSED_LOGPROBS)
    assert found.kept_mass is not None
    masses = found.kept_mass
    assert (masses[[0, 1, 2, 4]] < 0.999).all()
    np.testing.assert_allclose(masses[[3, 5, 6]], 1, atol=1e-6)
    _, none = report(LogprobsMode.PROCESSED_LOGPROBS, wanted=False)
    assert none.kept_mass is not None
    assert not none.kept_mass.any()


def reported_by(engine: Engine, **sampling: Any) -> list[TokenLogprobs]:
    """The log-probabilities of three tokens."""
    add(engine, request("r", PROMPT, max_tokens=3, logprobs=2, ignore_eos=True, **sampling))
    events = []
    while engine.has_work:
        events += engine.step()
    return [entry for event in events for entry in event.logprobs or ()]


def test_an_engine_tells_the_named_tokens_in_place_of_the_likeliest(executor: JaxExecutor) -> None:
    engine = make_engine(executor=executor)
    likeliest = reported_by(engine, temperature=0, seed=1)
    [first, second] = [token_id for token_id, _ in likeliest[0].top]
    ids = (second, first, second)
    named = reported_by(engine, temperature=0, seed=1, logprob_token_ids=ids)
    values = dict(likeliest[0].top)
    assert list(named[0].top) == [(token_id, values[token_id]) for token_id in ids]
    assert [entry.logprob for entry in named] == [entry.logprob for entry in likeliest]
    with pytest.raises(ValueError, match="logprob_token_ids must hold at most"):
        reported_by(engine, logprob_token_ids=range(engine.info.max_logprobs + 1))
    with pytest.raises(ValueError, match="logprob_token_ids holds token id 100000"):
        reported_by(engine, logprob_token_ids=(100_000,))


def test_an_engine_reports_what_its_mode_says(executor: JaxExecutor) -> None:
    raw = reported_by(make_engine(executor=executor), temperature=0)
    engine = make_engine(with_config(logprobs_mode=LogprobsMode.PROCESSED_LOGPROBS))
    # The likeliest token is all that is kept.
    processed = reported_by(engine, temperature=1.0, top_k=1)
    assert [entry.token_id for entry in processed] == [entry.token_id for entry in raw]
    for own, entry in zip(raw, processed, strict=True):
        assert own.kept_mass is None
        assert entry.logprob == 0
        assert entry.kept_mass == pytest.approx(np.exp(own.logprob), rel=1e-4)
