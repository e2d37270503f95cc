"""Every sampling parameter, through the official client, by an effect that it alone can have.

The log-probabilities that come with the tokens are the model's own, before any parameter: from
them the tests compute what a parameter must have chosen.
"""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.serving import CAPITAL, IDS, ONCE, ONE_TWO, Server, ids, tops, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONES = "1 1 1 1 1 1"  # continued by more of them
RANDOM = {"temperature": 1.0, "seed": 7}


def test_n_is_as_many_answers_with_seeds_in_a_row(server: Server) -> None:
    together = server.complete(ONE_TWO, max_tokens=6, n=3, top_k=20, **RANDOM, **IDS).choices
    assert [choice.index for choice in together] == [0, 1, 2]
    assert len({tuple(choice.token_ids) for choice in together}) == 3
    for choice in together:
        seed = RANDOM["seed"] + choice.index
        alone = ids(server, ONE_TWO, max_tokens=6, top_k=20, temperature=1.0, seed=seed)
        assert choice.token_ids == alone
    assert len(server.chat(CAPITAL, max_tokens=1, n=3).choices) == 3


def test_a_seed_gives_the_same_text_alone_and_among_15_others(server: Server) -> None:
    asked = {"max_tokens": 10, "temperature": 0.9, "top_k": 40, "top_p": 0.95}

    def sample(seed: int) -> list[int]:
        return ids(server, f"{ONCE}, number {seed} ", seed=seed, **asked)

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(sample, range(16)))
    for seed in (0, 7, 15):
        assert together[seed] == sample(seed)
    assert ids(server, ONCE, seed=1, **asked) != ids(server, ONCE, seed=2, **asked)


def test_without_a_seed_or_temperature_texts_vary(server: Server) -> None:
    body = {"prompt": ONCE, "max_tokens": 8, "n": 4}
    answers = [server.http.post("/v1/completions", json=body).json() for _ in range(2)]
    found = {choice["text"] for answer in answers for choice in answer["choices"]}
    assert len(found) > 4


def test_temperature(server: Server, plain: Any) -> None:
    def mean_logprob(temperature: float) -> float:
        answer = server.complete(
            ONCE, max_tokens=8, n=4, temperature=temperature, seed=7, logprobs=0
        )
        values = [v for choice in answer.choices for v in choice.logprobs.token_logprobs]
        return float(sum(values)) / len(values)

    assert mean_logprob(0.5) > mean_logprob(1.5)
    almost_greedy = ids(server, ONE_TWO, max_tokens=9, temperature=0.001, seed=7)
    assert almost_greedy == plain.choices[0].token_ids
    # So hot that all tokens are alike: none of the likely ones.
    hot = server.complete(ONE_TWO, max_tokens=9, temperature=1e9, seed=7, logprobs=20, **IDS)
    likely = [list(top)[:20] for top in tops(hot.choices[0])]
    assert not any(i in top for i, top in zip(hot.choices[0].token_ids, likely, strict=True))


@pytest.mark.parametrize("only", [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 1e-300}, {"min_p": 1.0}])
def test_the_narrowest_filters_are_greedy(
    server: Server, plain: Any, only: dict[str, float]
) -> None:
    found = ids(server, ONE_TWO, max_tokens=9, temperature=2.0, seed=7, **only)
    assert found == plain.choices[0].token_ids


def test_top_k(server: Server) -> None:
    def ranks(**body: Any) -> list[int]:
        (choice,) = server.complete(
            ONCE, max_tokens=24, temperature=3.0, seed=7, logprobs=20, **IDS, **body
        ).choices
        return [list(top).index(i) for i, top in zip(choice.token_ids, tops(choice), strict=True)]

    assert set(ranks(top_k=3)) == {0, 1, 2}
    assert max(ranks(top_k=-1)) == 20  # beyond the twenty: the token itself comes behind them


def test_top_p(server: Server) -> None:
    (choice,) = server.complete(
        ONCE, max_tokens=24, top_p=0.5, logprobs=20, **RANDOM, **IDS
    ).choices
    above = [
        sum(math.exp(value) for value in top.values() if value > top[i])
        for i, top in zip(choice.token_ids, tops(choice), strict=True)
    ]
    assert all(mass < 0.5 for mass in above)
    assert any(mass > 0 for mass in above)


def test_min_p(server: Server) -> None:
    (choice,) = server.complete(
        ONCE, max_tokens=24, min_p=0.2, logprobs=20, **RANDOM, **IDS
    ).choices
    shares = [
        math.exp(top[i] - max(top.values()))
        for i, top in zip(choice.token_ids, tops(choice), strict=True)
    ]
    assert min(shares) >= 0.2
    assert any(share < 1 for share in shares)


@pytest.mark.parametrize(
    ("presence", "frequency"), [(2.0, 0.0), (0.0, 2.0), (1.0, 0.5), (-2.0, 0.0), (0.0, -2.0)]
)
def test_presence_and_frequency_penalties(
    server: Server, presence: float, frequency: float
) -> None:
    prompt = ONES if presence + frequency > 0 else ONCE
    asked = {"max_tokens": 16, "logprobs": 20, **IDS}
    penalties = {"presence_penalty": presence, "frequency_penalty": frequency}
    (choice,) = server.complete(prompt, **asked, **penalties).choices
    counts: Counter[int] = Counter()  # of the output only: the prompt's tokens cost nothing
    for token_id, top in zip(choice.token_ids, tops(choice), strict=True):
        values = {
            i: value - presence * (counts[i] > 0) - frequency * counts[i]
            for i, value in top.items()
        }
        assert token_id == max(values, key=lambda i: values[i])
        counts[token_id] += 1
    assert choice.token_ids != ids(server, prompt, max_tokens=16)


def test_repetition_penalty(server: Server) -> None:
    known = words(server, ONES)
    strong = ids(server, ONES, max_tokens=16, repetition_penalty=1000.0)
    assert len(set(known + strong)) == len(set(known)) + len(strong)  # every token is a new one
    weak = ids(server, ONCE, max_tokens=16, repetition_penalty=0.01)
    assert set(weak) <= set(words(server, ONCE))  # only the prompt's own again


def test_logit_bias(server: Server, plain: Any) -> None:
    (choice,) = server.complete(ONE_TWO, max_tokens=1, logprobs=20, **IDS).choices
    (first, best), (second, next_best), *_ = tops(choice)[0].items()
    assert choice.token_ids == [first]
    for extra, expected in ((-0.01, first), (0.01, second)):
        bias = {str(second): best - next_best + extra}
        assert ids(server, ONE_TWO, max_tokens=1, logit_bias=bias) == [expected]
    assert ids(server, ONE_TWO, max_tokens=1, logit_bias={str(first): -100}) == [second]
    assert ids(server, ONE_TWO, max_tokens=4, logit_bias={"7042": 100}) == [7042] * 4


def test_allowed_token_ids(server: Server) -> None:
    (choice,) = server.complete(ONE_TWO, max_tokens=1, logprobs=20, **IDS).choices
    likely = list(tops(choice)[0])
    allowed = [likely[9], likely[4], likely[6]]
    found = ids(server, ONE_TWO, max_tokens=8, allowed_token_ids=allowed, temperature=0)
    assert found[0] == likely[4]
    hot = ids(server, ONE_TWO, max_tokens=24, allowed_token_ids=allowed, temperature=5.0, seed=7)
    assert set(hot) == set(allowed)


def test_bad_words(server: Server, plain: Any) -> None:
    assert plain.choices[0].text == " four, five, six, seven, eight"
    for bad, kept in (
        (["five"], " four,"),
        ([" five"], " four,"),
        (["four, five"], " four,"),  # its beginning may come
        (["two, three", "five, six"], " four, five,"),
    ):
        (choice,) = server.complete(ONE_TWO, max_tokens=9, bad_words=bad).choices
        assert choice.text.startswith(kept)
        assert not any(word.strip() in choice.text for word in bad)
        # Where it would have come, the next likeliest comes instead.
        place = plain.choices[0].text.removeprefix(kept).split(",")[0]
        assert not choice.text.startswith(kept + place)
