"""A prompt comes once, whether answers repeat it or hold it alone."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.data.records import Chat, Completion, Pair, parse_record

SYSTEM = {"role": "system", "content": "Be terse"}
USER = {"role": "user", "content": "Hi"}
MORE = {"role": "user", "content": "So?"}
YES = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
CHAT = Chat(messages=(USER, YES), trained=(1,))
PAIR = Pair(chosen=CHAT, rejected=Chat(messages=(USER, NO), trained=(1,)))
LONG = Pair(
    chosen=Chat(messages=(SYSTEM, USER, YES, MORE, YES), trained=(4,)),
    rejected=Chat(messages=(SYSTEM, USER, YES, MORE, NO), trained=(4,)),
)


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [USER], "completion": [USER, YES]},
        {"prompt": [USER], "completion": "Yes"},
        {"prompt": "Hi", "completion": [YES]},
        {"prompt": "Hi", "completion": [USER, YES]},
        {
            "prompt": [{**USER, "content": [{"type": "text", "text": "Hi"}]}],
            "completion": [USER, YES],
        },
    ],
)
def test_of_a_conversation(value: dict[str, Any]) -> None:
    assert parse_record(value, "auto") == CHAT


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [NO]},
        {"prompt": "Hi", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Hi", "chosen": [YES], "rejected": [NO]},
        {"prompt": "Hi\n", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": YES["content"], "rejected": NO["content"]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        # The text is of something else: what both conversations begin with is the prompt.
        {"prompt": "Human: Hi", "chosen": [USER, YES], "rejected": [USER, NO]},
        {
            "input": {"messages": [USER]},
            "preferred_output": [USER, YES],
            "non_preferred_output": [NO],
        },
    ],
)
def test_of_a_pair(value: dict[str, Any]) -> None:
    assert parse_record(value, "auto") == PAIR


@pytest.mark.parametrize(
    "value",
    [
        {"chosen": [SYSTEM, USER, YES, MORE, YES], "rejected": [SYSTEM, USER, YES, MORE, NO]},
        {"prompt": [SYSTEM, USER, YES, MORE], "chosen": [MORE, YES], "rejected": [NO]},
        {
            "prompt": [USER, YES, MORE],
            "chosen": [SYSTEM, USER, YES, MORE, YES],
            "rejected": [SYSTEM, USER, YES, MORE, NO],
        },
        {
            "prompt": "So?",
            "chosen": [SYSTEM, USER, YES, MORE, YES],
            "rejected": [SYSTEM, USER, YES, MORE, NO],
        },
    ],
)
def test_of_several_turns(value: dict[str, Any]) -> None:
    assert parse_record(value, "auto") == LONG


def test_an_answer_that_says_the_same_again_is_kept() -> None:
    value = {"prompt": [USER, YES, MORE], "completion": [YES, MORE, NO]}
    record = parse_record(value, "auto")
    assert record == Chat(messages=(USER, YES, MORE, YES, MORE, NO), trained=(3, 5))


def test_of_texts() -> None:
    four = Completion(prompt="2+2=", completion="4")
    assert parse_record({"prompt": "2+2=", "completion": "2+2=4"}, "auto") == four
    value = {"prompt": "2+2=", "chosen": "2+2=4", "rejected": "2+2=5"}
    pair = Pair(chosen=four, rejected=Completion(prompt="2+2=", completion="5"))
    assert parse_record(value, "auto") == pair
    chosen, rejected = "Human: Hi\n\nAssistant: Yes, sir", "Human: Hi\n\nAssistant: Yes, madam"
    assert parse_record({"chosen": chosen, "rejected": rejected}, "auto") == Pair(
        chosen=Completion(prompt="Human: Hi\n\nAssistant: Yes,", completion=" sir"),
        rejected=Completion(prompt="Human: Hi\n\nAssistant: Yes,", completion=" madam"),
    )


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("a", "apple"), ("1", "10"), ("", "b"), ("\n", "\nb"), ("ha", "ha"), ("ab", "a")],
)
def test_a_chance_beginning_is_no_repeated_prompt(prompt: str, completion: str) -> None:
    record = parse_record({"prompt": prompt, "completion": completion}, "auto")
    assert record == Completion(prompt=prompt, completion=completion)


def test_a_pair_of_which_one_text_begins_with_the_prompt_is_left_as_it_is() -> None:
    value = {"prompt": "x:", "chosen": "x: y", "rejected": "z"}
    assert parse_record(value, "auto") == Pair(
        chosen=Completion(prompt="x:", completion="x: y"),
        rejected=Completion(prompt="x:", completion="z"),
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"chosen": [USER, YES], "rejected": [MORE, NO]},
            "begin with other messages, so it is not",
        ),
        (
            {"prompt": "Ho", "completion": [USER, YES]},
            "completion begins with a message of the user",
        ),
        ({"chosen": [USER, YES], "rejected": 3}, "prompt and rejected must be both"),
        ({"chosen": [USER], "rejected": [USER]}, "begin with other messages"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [NO]}, "the answer has nothing to learn"),
    ],
)
def test_what_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_record(value, "auto")
