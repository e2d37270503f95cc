"""What a reader has not read: it loses nothing, and takes few bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flaxen.engine.unread import Unread
from flaxen.protocol import Finish, FinishReason, TokenEvent, TokenLogprobs, TopTokens

FINISH = Finish(
    reason=FinishReason.STOP, num_prompt_tokens=2, num_output_tokens=3, num_cached_tokens=0,
    queue_s=0.0,
)  # fmt: skip
FLOATS = st.floats(max_value=0, width=32)
PAIRS = st.lists(st.tuples(st.integers(0, 2**31 - 1), FLOATS), max_size=4)
SCORES = st.builds(
    lambda token_id, logprob, pairs, kept: TokenLogprobs(
        token_id=token_id, logprob=logprob, rank=1, top=tuple(pairs), kept_mass=kept
    ),
    st.integers(0, 2**31 - 1),
    FLOATS,
    PAIRS,
    st.none() | st.floats(0, 1),
)


def event(
    index: int,
    tokens: list[tuple[str, TokenLogprobs]],
    *,
    scored: bool = True,
    finish: Finish | None = None,
    prompt: tuple[TokenLogprobs | None, ...] | None = None,
) -> TokenEvent:
    return TokenEvent(
        request_id="r",
        index=index,
        token_ids=tuple(score.token_id for _, score in tokens),
        text="".join(text for text, _ in tokens),
        logprobs=tuple(score for _, score in tokens) if scored else None,
        prompt_logprobs=prompt,
        finish=finish,
    )


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # the sequence
            st.lists(st.tuples(st.text(max_size=3), SCORES), max_size=2),
            st.integers(0, 2),  # events that the reader takes then
        ),
        max_size=30,
    ),
    scored=st.booleans(),
    num_apart=st.sampled_from([1, 3]),
)
def test_nothing_is_lost_however_far_behind(
    steps: list[tuple[int, list[tuple[str, TokenLogprobs]], int]], scored: bool, num_apart: int
) -> None:
    unread, read = Unread(num_apart), dict[int, list[TokenEvent]]()
    given_: dict[int, list[tuple[str, TokenLogprobs]]] = {0: [], 1: [], 2: []}

    def take() -> bool:
        taken = unread.take()
        if taken is not None:
            assert not read.get(taken.index) or read[taken.index][-1].finish is None
            read.setdefault(taken.index, []).append(taken)
        return taken is not None

    for index, tokens, num_taken in steps:
        unread.put(event(index, tokens, scored=scored))
        given_[index] += tokens
        for _ in range(num_taken):
            take()
    for index in given_:
        unread.put(event(index, [], scored=False, finish=FINISH))
    while take():
        pass
    assert unread.num_bytes == 0
    for index, tokens in given_.items():
        events = read[index]
        assert "".join(each.text for each in events) == "".join(text for text, _ in tokens)
        assert [i for each in events for i in each.token_ids] == [s.token_id for _, s in tokens]
        found = [score for each in events for score in each.logprobs or ()]
        assert found == ([score for _, score in tokens] if scored else [])
        assert events[-1].finish is FINISH


def test_who_reads_at_once_gets_each_event_as_it_is() -> None:
    unread = Unread()
    for number in range(3):
        each = event(number, [("a", TokenLogprobs(token_id=1, logprob=-1.0, rank=1, top=()))])
        unread.put(each)
        assert unread.take() is each
    assert unread.take() is None


def test_who_reads_a_moment_late_gets_each_event_as_it_is() -> None:
    unread = Unread(num_apart=2)
    events = [event(index, []) for index in (0, 1, 0, 1)]
    for each in events:
        unread.put(each)
    for each in events:
        assert unread.take() is each
    assert unread.take() is None


def test_those_who_wait_longest_are_read_first_and_the_prompt_comes_once() -> None:
    unread = Unread(num_apart=1)
    score = TokenLogprobs(token_id=7, logprob=-0.5, rank=2, top=((7, -0.5), (8, -1.5)))
    unread.put(event(1, [("x", score)]))
    unread.put(event(0, [("a", score)], prompt=(None, score)))
    unread.put(event(1, [("y", score)]))
    unread.put(event(0, [("b", score)], finish=FINISH))
    first, second = unread.take(), unread.take()
    assert first is not None
    assert second is not None
    assert (first.index, first.text, first.token_ids) == (1, "xy", (7, 7))
    assert (first.prompt_logprobs, first.finish) == (None, None)
    assert (second.text, second.prompt_logprobs) == ("ab", (None, score))
    assert (second.logprobs, second.finish) == ((score, score), FINISH)


def test_the_likeliest_tokens_are_a_sequence_of_pairs() -> None:
    pairs = ((5, -0.5), (6, -1.25), (7, float("-inf")))
    top = TopTokens.of(pairs)
    assert top == pairs
    assert pairs == top
    assert top != pairs[:2]
    assert (len(top), top[1], top[-1], top[:2]) == (3, pairs[1], pairs[2], pairs[:2])
    assert tuple(top) == pairs
    assert (hash(top), repr(top)) == (hash(pairs), repr(pairs))
    assert TopTokens.of(top) is top
    assert sum(map(len, top.packed)) == 24
