"""Chat templates: transformers' conventions, OpenAI's content, errors that help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer

USER: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
JOINS = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] + '' }}{% endfor %}"
READS_PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}<{{ part.text }}>{% endfor %}{% endif %}{% endfor %}"
)

Make = Callable[..., ChatTemplate]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes templates, and ends their processes after the test."""
    made: list[ChatTemplate] = []

    def template(source: str | None, **options: Any) -> ChatTemplate:
        options = {"bos_token": "<s>", "eos_token": "</s>"} | options
        made.append(ChatTemplate(source, **options))
        return made[-1]

    yield template
    for each in made:
        each.close()


def test_smollm2_renders_and_encodes_as_in_transformers(
    make: Make, smollm2: Tokenizer, smollm2_texts: list[dict[str, Any]]
) -> None:
    template = make(smollm2.chat_template, bos_token=smollm2.bos_token, eos_token=smollm2.eos_token)
    golden = {item["id"]: item for item in smollm2_texts}
    chats = {
        12: [{"role": "user", "content": "What is the capital of France?"}],
        18: [
            {"role": "system", "content": "You are a terse assistant."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello. How can I help?"},
            {"role": "user", "content": "Name two primary colors."},
        ],
    }
    for i, messages in chats.items():
        text = template.render(messages)
        assert text == golden[i]["prompt_text"]
        assert smollm2.encode(text, add_special_tokens=False) == golden[i]["prompt_token_ids"]
    assert template.render(USER, add_generation_prompt=False).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hi</s>"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ tools[0].name }}{{ enable_thinking }}", "addTrue"),
        ("{{ missing }}|{{ tools is none }}", "|False"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ messages[0].content }}{{ '\\ud83d' | length }}", "Hi1"),
    ],
)
def test_conventions_of_transformers(make: Make, source: str, text: str) -> None:
    assert make(source).render(USER, tools=[{"name": "add"}], enable_thinking=True) == text


def test_a_model_without_bos_gives_the_template_nothing_to_print(make: Make) -> None:
    assert make("{{ bos_token }}x", bos_token=None).render(USER) == "x"


def test_parts_are_joined_where_the_template_reads_only_text(make: Make) -> None:
    messages = [*USER, {"role": "user", "content": PARTS}]
    assert make(JOINS).render(messages) == "[user]Hi[user]one\ntwo"
    # It would print the list: that is not reading it.
    assert make("{{ messages[0].content }}").render(messages[1:]) == "one\ntwo"
    assert make("{{ messages[0].content | tojson }}").render(messages[1:]) == '"one\\ntwo"'


def test_parts_are_passed_on_where_the_template_reads_them(make: Make) -> None:
    messages = [*USER, {"role": "user", "content": PARTS}]
    assert make(READS_PARTS).render(messages) == "Hi<one><two>"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        (["Hi"], r"messages\[0\] must be an object with a role, .* got Hi"),
        ([{"content": "Hi"}], r"messages\[0\] must be an object with a role"),
        (
            [*USER, {"role": "user", "content": [PARTS[0], {"type": "image_url"}]}],
            r"messages\[1\].content\[1\] is of type 'image_url': this model reads text only",
        ),
        ([{"role": "user", "content": ["Hi"]}], r"content\[0\] is of type None"),
        (
            [{"role": "user", "content": [{"type": "text", "text": 1}]}],
            r"content\[0\] must have a string as text, got 1",
        ),
        ([{"role": "user", "content": None}], "failed on these messages: TypeError"),
        ([{"role": "user", "content": {1, 2}}], "can only be given JSON values: .*set"),
    ],
)
def test_wrong_messages(make: Make, messages: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(JOINS).render(messages)


def test_the_templates_own_message_stands_alone(make: Make) -> None:
    template = make("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(ValueError, match=r"^Roles must alternate$"):
        template.render(USER)


def test_no_template_says_how_to_give_one(make: Make) -> None:
    for source in (None, ""):
        with pytest.raises(ValueError, match=r"no chat template, .* give one .* or send a plain"):
            make(source).render(USER)


def test_what_is_wrong_with_a_template(make: Make) -> None:
    with pytest.raises(ValueError, match=r"not valid Jinja: line 2: .*endif.*; give another one"):
        make("{% if x %}\nab")
    with pytest.raises(ValueError, match=r"timeout_s must be above 0 and finite, got 0"):
        make("x", timeout_s=0)
    with pytest.raises(ValueError, match=r"max_chars must be above 0 and finite, got -1"):
        make("x", max_chars=-1)


def test_threads_share_a_template(make: Make) -> None:
    template = make("{{ messages[0].content }}")
    texts = [f"{i}é" * i for i in range(1, 200)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda t: template.render([{"role": "user", "content": t}]), texts)
        assert list(found) == texts
