"""A grammar decides, token by token, what may be sampled: on a fake device and a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.protocol import FieldError, Request
from flaxen.scheduling.executor import StepResult
from flaxen.scheduling.plan import StepPlan
from tests.engine.drafters import Always, Knowing
from tests.engine.fakes import SMALL, VOCAB_SIZE, FakeExecutor, fake_engine, run_out
from tests.engine.grammars import Rule
from tests.engine.tiny import (
    EOS_ID,
    ONE_SHAPE,
    make_engine,
    make_executor,
    prompts,
    request,
    run,
    trace,
)
from tests.scheduling.groups import full

Allowed = Callable[[list[int]], Iterable[int]]


def multiples_of_7(tokens: list[int]) -> Iterable[int]:
    return range(0, 300, 7)


def then_the_end(tokens: list[int]) -> Iterable[int]:
    return [EOS_ID] if len(tokens) == 3 else range(10, 20)


def alternating(tokens: list[int]) -> Iterable[int]:
    return range(100, 110) if len(tokens) % 2 else range(200, 210)


def ruled(asked: Request, allowed: Allowed) -> Request:
    return replace(asked, grammar=lambda: Rule(allowed))


def add_all(engine: Engine, *requests: Request) -> None:
    for each in requests:
        engine.add(engine.check(each))


def test_the_fake_samples_what_the_grammar_allows() -> None:
    engine = fake_engine()
    add_all(engine, ruled(request("r", [3], logprobs=None), multiples_of_7), request("s", [3]))
    ends = run_out(engine)
    assert ends.tokens[("r", 0)] == list(range(7, 7 * 13, 7))
    assert ends.tokens[("s", 0)] == list(range(4, 16))


def test_each_of_n_has_a_grammar_of_its_own() -> None:
    engine = fake_engine()
    add_all(engine, ruled(request("r", [3], n=3, logprobs=None), alternating))
    tokens = run_out(engine).tokens
    assert {tuple(tokens["r", i][:4]) for i in range(3)} == {(200, 100, 200, 100)}


def test_a_checked_request_that_is_added_again_begins_its_grammar_anew() -> None:
    engine = fake_engine()
    checked = engine.check(ruled(request("r", [3], n=2, max_tokens=3, logprobs=None), alternating))
    for _ in range(2):
        engine.add(checked)
        assert run_out(engine).tokens == {("r", i): [200, 100, 200] for i in range(2)}


def test_a_sequence_with_a_grammar_takes_as_many_steps_as_one_without() -> None:
    steps = {}
    for name, allowed in (("plain", None), ("ruled", alternating)):
        engine = fake_engine()
        asked = request(name, [3], logprobs=None)
        add_all(engine, asked if allowed is None else ruled(asked, allowed))
        run_out(engine)
        steps[name] = engine.stats().num_steps
    assert steps["ruled"] == steps["plain"]


def test_a_grammar_is_asked_while_the_step_is_on_the_device() -> None:
    """The next step is dispatched before the grammar takes the token of the one before."""
    calls: list[str] = []

    class Noted(FakeExecutor):
        def dispatch(self, plan: StepPlan) -> StepResult:
            calls.append("dispatch")
            return FakeExecutor.dispatch(self, plan)

        def sample(self, plan: StepPlan, handle: StepResult, bitmasks: np.ndarray) -> None:
            calls.append("sample")
            FakeExecutor.sample(self, plan, handle, bitmasks)

    def noted(tokens: list[int]) -> Iterable[int]:
        calls.append(f"{len(tokens)} tokens")
        return range(10, 20)

    engine = fake_engine(executor=Noted(SMALL))
    add_all(engine, ruled(request("r", [3], max_tokens=2, logprobs=None), noted))
    engine.step()
    assert calls == ["dispatch", "0 tokens", "sample"]
    engine.step()  # Rule asks too when it takes a token
    assert calls[3:] == ["dispatch", "0 tokens", "1 tokens", "sample"]


def test_a_grammar_that_fails_while_it_is_asked_ends_its_sequence_alone() -> None:
    class Stuck(Rule):
        def fill_bitmask(self, bitmask: memoryview) -> None:
            raise RuntimeError("too ambiguous")

    engine = fake_engine()
    stuck = replace(request("r", [3], logprobs=None), grammar=lambda: Stuck(multiples_of_7))
    add_all(engine, stuck, ruled(request("s", [3], logprobs=None), multiples_of_7))
    ends = run_out(engine)
    assert ends.reasons == {("r", 0): "impossible", ("s", 0): "length"}
    assert ends.errors[("r", 0)] == "too ambiguous"


def test_a_grammar_goes_on_after_preemption() -> None:
    engine = fake_engine(replace(SMALL, groups=full(16)))
    names = [f"r{i}" for i in range(6)]
    add_all(
        engine,
        *(ruled(request(n, [3] * 5, max_tokens=20, logprobs=None), alternating) for n in names),
    )
    ends = run_out(engine)
    assert engine.stats().num_preemptions > 0
    for name in names:
        assert ends.tokens[(name, 0)] == [200, 100] * 10


def test_a_grammar_that_allows_nothing_ends_its_sequence_alone() -> None:
    engine = fake_engine()
    add_all(
        engine,
        ruled(request("r", [3], logprobs=None), lambda tokens: [9] if not tokens else []),
        request("s", [3]),
    )
    ends = run_out(engine)
    assert ends.tokens[("r", 0)] == [9]
    assert ends.reasons == {("r", 0): "impossible", ("s", 0): "length"}
    assert "the grammar together forbid all of them" in str(ends.errors[("r", 0)])


def test_a_grammar_that_fails_ends_its_sequence_alone() -> None:
    def fails(tokens: list[int]) -> Iterable[int]:
        if tokens:
            raise RuntimeError("no such state")
        return [9]

    engine = fake_engine()
    add_all(engine, ruled(request("r", [3], logprobs=None), fails), request("s", [3]))
    ends = run_out(engine)
    assert ends.reasons == {("r", 0): "impossible", ("s", 0): "length"}
    assert ends.errors[("r", 0)] == "no such state"


def test_a_grammar_that_fails_at_once_is_refused() -> None:
    def fails() -> Rule:
        raise ValueError("not a grammar")

    with pytest.raises(ValueError, match="not a grammar"):
        fake_engine().check(replace(request("r", [3]), grammar=fails))


def test_a_grammar_that_is_made_already_is_refused() -> None:
    made = Rule(lambda tokens: [1])
    with pytest.raises(
        FieldError, match=r"grammar must be a function .* got a Rule: give its class"
    ):
        fake_engine().check(replace(request("r", [3]), grammar=made))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real() -> JaxExecutor:
    return make_executor(replace(ONE_SHAPE, num_spec_tokens=2))


CONFIG = replace(ONE_SHAPE, num_spec_tokens=2)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3, "top_k": 5}], ids=str)
def test_the_real_device_samples_what_the_grammar_allows(
    real: JaxExecutor, sampling: dict[str, object]
) -> None:
    engine = make_engine(CONFIG, executor=real)
    rules = {"a": multiples_of_7, "b": alternating, "c": then_the_end}
    (prompt,) = prompts([20])
    asked = [
        ruled(request(name, prompt, **{"ignore_eos": False, **sampling}), rule)
        for name, rule in rules.items()
    ]
    outputs = run(engine, [*asked, request("plain", prompt, **sampling)])
    for rule, output in zip(rules.values(), outputs, strict=False):
        tokens = list(output.outputs[0].token_ids)
        for i, token_id in enumerate(tokens):
            assert token_id in rule(tokens[:i])
    assert outputs[2].outputs[0].finish_reason == "stop"
    # Alone is beside others, with a grammar and without.
    for each, output in zip([*asked, request("plain", prompt, **sampling)], outputs, strict=True):
        (alone,) = run(make_engine(CONFIG, executor=real), [each])
        assert trace(alone) == trace(output)


def test_a_grammar_that_allows_all_changes_nothing(real: JaxExecutor) -> None:
    engine = make_engine(CONFIG, executor=real)
    asked = [request(f"r{i}", p) for i, p in enumerate(prompts([5, 17, 33]))]
    plain = run(engine, asked)
    got = run(engine, [ruled(each, lambda tokens: range(VOCAB_SIZE)) for each in asked])
    assert [trace(output) for output in got] == [trace(output) for output in plain]


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_drafts_follow_the_grammar(real: JaxExecutor, wrong: float) -> None:
    numbered = enumerate(prompts([5, 33, 17]))
    asked = [request(f"r{i}", p, temperature=0.8, seed=i) for i, p in numbered]
    asked[0] = ruled(asked[0], multiples_of_7)
    asked[1] = ruled(asked[1], lambda tokens: [len(tokens) + 5, len(tokens) + 50])
    plain = run(make_engine(CONFIG, executor=real), asked)
    futures = {tuple(o.prompt_token_ids): o.outputs[0].token_ids for o in plain}
    drafter = Knowing(futures, VOCAB_SIZE, wrong)
    engine = make_engine(CONFIG, executor=real, drafter=drafter, payoff=Always())
    got = run(engine, asked)
    assert [trace(output) for output in got] == [trace(output) for output in plain]
    assert (engine.stats().num_accepted_tokens > 0) == (wrong < 1)
