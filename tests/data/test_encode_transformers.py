"""What is learned of a chat is what transformers' mask of the assistant's tokens has."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.data.encode import Encoder
from flaxen.data.records import parse_record
from tests.data.tiny_text import SPECIAL, chat, make_tokenizer

MARKED = (
    "{% for m in messages %}<turn>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{% if loop.last %}(Hm){% endif %}{{ m.content }}<eos>{% endgeneration %}{% else %}"
    "{{ m.content }}<eos>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@pytest.mark.parametrize("turns", [("Hi", "Yes"), ("Hi", "Yes", "So?", "Nó"), ("a", "a", "a", "a")])
def test_marked_templates_are_masked_as_in_transformers(turns: tuple[str, ...]) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = make_tokenizer(chat_template=MARKED)
    theirs: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._backend, eos_token=SPECIAL[1], chat_template=MARKED
    )
    record = chat(*turns)
    encoder = Encoder(tokenizer)
    (found,) = encoder.encode(parse_record(record, "chat"))
    encoder.close()
    expected = theirs.apply_chat_template(
        record["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert found.tokens.tolist() == expected["input_ids"]
    assert found.weights.tolist() == expected["assistant_masks"]
