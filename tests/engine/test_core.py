"""The engine over a real tiny model: what a request asks for is what it gets."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.outputs import CompletionOutput, RequestOutput
from flaxen.protocol import Request
from tests.engine.fakes import POISON, add
from tests.engine.tiny import EOS_ID, make_engine, request, run, trace, with_config
from tests.server.fakes import byte_tokenizer

PROMPT = [20, 30, 40, 50, 60]
LETTERS = tuple(range(ord("a"), ord("z") + 1))
TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def engine(executor: JaxExecutor) -> Engine:
    return make_engine(executor=executor, tokenizer=TOKENIZER)


def one(engine: Engine, prompt: list[int] = PROMPT, **sampling: Any) -> CompletionOutput:
    (output,) = run(engine, [request("r", prompt, **sampling)])
    (only,) = output.outputs
    return only


def ended(output: CompletionOutput) -> tuple[str | None, int | str | None, int]:
    return output.finish_reason, output.stop_reason, len(output.token_ids)


def test_max_tokens(engine: Engine) -> None:
    for max_tokens in (1, 2, 7):
        assert ended(one(engine, max_tokens=max_tokens)) == ("length", None, max_tokens)


def test_the_models_length_is_the_most(executor: JaxExecutor) -> None:
    short = make_engine(with_config(max_model_len=20), executor=executor)
    for max_tokens in (None, 16, 1000):
        assert ended(one(short, max_tokens=max_tokens)) == ("length", None, 15)
    assert ended(one(short, max_tokens=15)) == ("length", None, 15)
    assert ended(one(short, list(range(3, 22)), max_tokens=None)) == ("length", None, 1)
    with pytest.raises(ValueError, match=r"the prompt has 20 tokens, and the model takes 20"):
        add(short, request("r", list(range(3, 23))))


def test_stop_ids(engine: Engine) -> None:
    free = one(engine).token_ids
    stop = next(token for token in free[3:] if token not in free[:3])
    at = free.index(stop) + 1
    stopped = one(engine, stop_token_ids=(299, stop))
    assert ended(stopped) == ("stop", stop, at)
    assert stopped.token_ids == free[:at]
    later = one(engine, stop_token_ids=(stop,), min_tokens=at)  # banned on the device until then
    assert later.token_ids[: at - 1] == free[: at - 1]
    assert stop not in later.token_ids[:at]


def test_eos(engine: Engine) -> None:
    likes_eos: dict[str, Any] = {"logit_bias": {EOS_ID: 100.0}}
    assert ended(one(engine, ignore_eos=False, **likes_eos)) == ("stop", None, 1)
    ignores = one(engine, ignore_eos=True, max_tokens=5, **likes_eos)
    assert (ended(ignores), set(ignores.token_ids)) == (("length", None, 5), {EOS_ID})
    late = one(engine, ignore_eos=False, min_tokens=4, **likes_eos)
    assert ended(late) == ("stop", None, 5)
    assert late.token_ids.index(EOS_ID) == 4


def test_stop_strings(engine: Engine) -> None:
    asked: dict[str, Any] = {"allowed_token_ids": LETTERS, "max_tokens": 30}
    text = one(engine, **asked).text
    assert (len(text), text.isalpha()) == (30, True)
    stop = text[6:10]
    start = text.index(stop)
    stopped = one(engine, stop=("!", stop), **asked)
    assert (stopped.text, ended(stopped)) == (text[:start], ("stop", stop, start + 4))
    kept = one(engine, stop=(stop,), include_stop_str_in_output=True, **asked)
    assert kept.text == text[: start + 4]
    unmet = one(engine, stop=(text + "!",), **asked)  # held back until the end
    assert (unmet.text, ended(unmet)) == (text, ("length", None, 30))


def test_bad_words_and_penalties_have_their_effect(engine: Engine) -> None:
    asked: dict[str, Any] = {"allowed_token_ids": LETTERS, "max_tokens": 26}
    text = one(engine, **asked).text
    assert text[7:9] not in one(engine, bad_words=(text[7:9],), **asked).text
    assert text[0] not in one(engine, bad_words=(text[0],), **asked).text
    assert len(set(text)) < 26
    assert len(set(one(engine, presence_penalty=2.0, logit_bias=None, **asked).text)) > len(
        set(text)
    )
    assert sorted(one(engine, repetition_penalty=1e9, **asked).text) != sorted(text)


def test_each_of_n_ends_by_itself(engine: Engine) -> None:
    asked: dict[str, Any] = {
        "n": 6, "temperature": 1.5, "seed": 3, "max_tokens": 40, "allowed_token_ids": LETTERS,
        "stop_token_ids": LETTERS[:2], "prompt_logprobs": 1,
    }  # fmt: skip
    (output,) = run(engine, [request("n", PROMPT * 8, **asked)])
    assert output.finished
    assert len({len(each.token_ids) for each in output.outputs}) > 2
    for index, each in enumerate(output.outputs):
        assert (each.index, each.finish_reason) == (index, "stop")
        assert each.stop_reason == each.token_ids[-1]
        assert not set(each.token_ids[:-1]) & set(LETTERS[:2])
        alone = one(engine, PROMPT * 8, **{**asked, "n": 1, "seed": 3 + index})
        assert (alone.token_ids, alone.logprobs) == (each.token_ids, each.logprobs)
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == 40


def test_without_a_seed_no_two_are_alike(engine: Engine, executor: JaxExecutor) -> None:
    def outputs(engine: Engine) -> list[list[int]]:
        asked = [request(f"r{i}", PROMPT, temperature=1.0, n=3) for i in range(3)]
        return [each.token_ids for output in run(engine, asked) for each in output.outputs]

    first, second = (outputs(make_engine(executor=executor, seed=5)) for _ in range(2))
    assert first == second, "the engine's seed decides"
    assert len(set(map(tuple, first + outputs(engine)))) == 18


def test_logprobs(engine: Engine) -> None:
    found = one(engine, temperature=1.0, seed=1, logprobs=5)
    assert found.logprobs is not None
    chosen = [each[token] for each, token in zip(found.logprobs, found.token_ids, strict=True)]
    assert found.cumulative_logprob == pytest.approx(sum(each.logprob for each in chosen), abs=1e-9)
    for each in found.logprobs:
        assert len(each) in (5, 6)
        by_rank = sorted(each.values(), key=lambda value: value.rank)
        assert [value.rank for value in by_rank[:5]] == [1, 2, 3, 4, 5]
        assert [value.logprob for value in by_rank] == sorted(
            (value.logprob for value in by_rank), reverse=True
        )
    bare = one(engine, temperature=1.0, seed=1, logprobs=None)
    assert (bare.logprobs, bare.cumulative_logprob) == (None, None)
    zero = one(engine, temperature=1.0, seed=1, logprobs=0)
    assert bare.token_ids == zero.token_ids == found.token_ids
    assert [list(each) for each in zero.logprobs or []] == [[token] for token in found.token_ids]


def scored(outputs: list[RequestOutput]) -> list[Any]:
    return [(trace(output), output.prompt_logprobs) for output in outputs]


def test_prompt_logprobs_of_chunks_and_after_preemption(executor: JaxExecutor) -> None:
    batch = [
        request(f"r{i}", [i + 3, *PROMPT * num], prompt_logprobs=2, max_tokens=100 - 4 * num)
        for i, num in enumerate((1, 2, 1, 16, 9, 17, 12))
    ]
    expected = scored(run(make_engine(executor=executor), batch))
    # First some are preempted when they have output; then, as a long prompt gets one token a step
    # and older ones need its pages meanwhile, half-way through the prompt.
    for num_seqs, num_tokens, num_pages in ((16, 17, 12), (4, 4, 16)):
        sizes = with_config(
            max_num_seqs=num_seqs, max_num_batched_tokens=num_tokens, num_pages=num_pages
        )
        crowded = make_engine(sizes, executor=executor)
        assert scored(run(crowded, batch)) == expected
        assert crowded.stats().num_preemptions > 1
    assert all(len(found) == len(asked.prompt_token_ids)
               for (_, found), asked in zip(expected, batch, strict=True))  # fmt: skip


def salted(name: str, prompt: list[int], salt: str) -> Request:
    asked = request(name, prompt)
    return Request(
        request_id=name, prompt_token_ids=asked.prompt_token_ids, sampling=asked.sampling,
        cache_salt=salt,
    )  # fmt: skip


def test_cached_pages_are_shared_under_one_salt_only(executor: JaxExecutor) -> None:
    engine = make_engine(executor=executor)
    prompt = PROMPT * 7
    found = [run(engine, [salted("r", prompt, salt)])[0] for salt in ("", "", "a", "b", "a", "")]
    assert [each.num_cached_tokens for each in found] == [0, 32, 0, 0, 32, 32]
    assert all(trace(each) == trace(found[0]) for each in found)
    assert run(engine, [request("r", [*prompt[:20], 7])])[0].num_cached_tokens == 16
    stats = engine.stats()
    assert (stats.num_prefix_queries, stats.num_prefix_hits) == (6 * 35 + 21, 3 * 32 + 16)


def test_what_forbids_all_tokens_fails_alone(engine: Engine) -> None:
    calm = request("calm", PROMPT)
    (expected,) = run(engine, [calm])
    asked = request("odd", PROMPT, allowed_token_ids=(EOS_ID,), min_tokens=1, ignore_eos=False)
    later = request("later", PROMPT, allowed_token_ids=(97, 98), bad_words=("a", "ab", "bb"))
    got, failed, stuck = run(engine, [calm, asked, later])
    assert trace(got) == trace(expected)
    for output, num_tokens in ((failed, 0), (stuck, 1)):
        (only,) = output.outputs
        assert ended(only) == ("error", None, num_tokens)
        assert only.error is not None
        assert only.error.startswith("no token may be sampled: allowed_token_ids, bad_words")


def test_a_sequence_that_is_not_finite_fails_alone(executor: JaxExecutor) -> None:
    """Nothing of it is found again, and the pages that it leaves do no harm."""
    engine = make_engine(with_config(num_pages=24), executor=executor)
    head = PROMPT * 4
    good = [request(f"good{i}", [i + 3, *PROMPT * 5]) for i in range(4)]
    heir = request("heir", [*head, 5, 6, 7])
    expected = [trace(output) for output in run(engine, [*good, heir])]

    engine = make_engine(with_config(num_pages=24), executor=executor)
    bad = request("bad", [*head, POISON, *PROMPT], max_tokens=1)  # in one step only
    *neighbours, failed = run(engine, [*good, bad])
    assert [trace(output) for output in neighbours] == expected[:4]
    assert failed.outputs[0].error is not None
    assert "the model's output is not finite" in failed.outputs[0].error
    assert failed.outputs[0].token_ids == []

    assert run(engine, [heir])[0].num_cached_tokens == 0
    add(engine, bad)
    engine.step()
    engine.abort("bad")  # before it is known to be bad
    while engine.has_work:
        engine.step()
    (found,) = run(engine, [heir])
    assert (found.num_cached_tokens, trace(found)) == (0, expected[4])
    for _ in range(3):  # through every page of the pool
        assert [trace(output) for output in run(engine, good)] == expected[:4]
