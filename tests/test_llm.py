"""LLM and AsyncLLM over a tiny model on disk: what goes in, and what comes out."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from flaxen import LLM, AsyncLLM, SamplingParams, StructuredOutputs
from flaxen.outputs import RequestOutput
from flaxen.prompts import chat_prompt, make_request, model_template
from flaxen.protocol import EngineClosedError
from tests.server.fakes import byte_tokenizer

GOLDEN = Path(__file__).parent / "models" / "goldens" / "llama_tied_biases"
SIZES: dict[str, Any] = {
    "max_model_len": 64, "max_num_seqs": 4, "max_waiting": 4, "max_num_batched_tokens": 16,
    "compile_sizes": (16,), "page_size": 16,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}bot{{ mark }}:{% endif %}"
)
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
TEXTS = ["one", "two words", "three", "4", "five!", "sixth of them", "7 7 7", "an eighth"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a golden, and a tokenizer of one token a printable character."""
    directory = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, directory)
    characters = ["\u0120", "\u010a", *map(chr, range(33, 127))]  # space and newline, as GPT-2's
    vocab = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", *characters])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return str(directory)


@pytest.fixture(scope="module")
def llm(model: str) -> LLM:
    return LLM(model, **SIZES)


@pytest.fixture(scope="module")
def alone(llm: LLM) -> dict[str, list[int]]:
    """What each text is continued by."""
    return {text: llm.generate(text, GREEDY)[0].outputs[0].token_ids for text in TEXTS}


def ids_of(outputs: list[RequestOutput]) -> list[list[int]]:
    return [each.token_ids for output in outputs for each in output.outputs]


def test_prompts_of_every_kind(llm: LLM, alone: dict[str, list[int]]) -> None:
    ids = llm.tokenizer.encode("one")
    for prompt, text in (
        ("one", "one"), (["one"], "one"), ({"prompt": "one"}, "one"), (ids, None), ([ids], None),
        (tuple(ids), None), ({"prompt_token_ids": ids}, None), ([np.array(ids)], None),
        (list(np.array(ids)), None),
    ):  # fmt: skip
        (output,) = llm.generate(prompt, GREEDY)
        assert (output.prompt, output.prompt_token_ids) == (text, tuple(ids))
        (only,) = output.outputs
        assert only.token_ids == alone["one"]
        assert only.text == llm.tokenizer.decode(only.token_ids)
        assert (only.finish_reason, output.finished) == ("length", True)


def test_a_list_of_prompts_keeps_its_order(llm: LLM, alone: dict[str, list[int]]) -> None:
    mixed: list[Any] = [*TEXTS[:3], {"prompt": TEXTS[3]}, llm.tokenizer.encode(TEXTS[4])]
    assert ids_of(llm.generate(mixed, GREEDY)) == [alone[text] for text in TEXTS[:5]]
    assert llm.generate([], GREEDY) == []


def test_more_prompts_than_may_wait(llm: LLM, alone: dict[str, list[int]]) -> None:
    assert ids_of(llm.generate(TEXTS * 4, GREEDY)) == [alone[text] for text in TEXTS] * 4
    several = SamplingParams(n=7, max_tokens=3, seed=1, temperature=1.0)  # more than may wait
    assert [len(output.outputs) for output in llm.generate(TEXTS, several)] == [7] * 8


def test_parameters_for_all_or_for_each(llm: LLM, alone: dict[str, list[int]]) -> None:
    each = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 2, 3)]
    found = ids_of(llm.generate(TEXTS[:3], each))
    assert found == [alone[text][:n] for text, n in zip(TEXTS, (1, 2, 3), strict=False)]
    (default,) = llm.generate("one")
    assert len(default.outputs[0].token_ids) <= 16
    with pytest.raises(ValueError, match="2 prompts came with 3 sampling params: give one for all"):
        llm.generate(TEXTS[:2], each)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["fine", [500]], "the prompt holds token id 500, outside the vocabulary of 128"),
        (["fine", ""], "the prompt is empty"),
        (["fine", []], "the prompt is empty"),
        (["fine", "x" * 64], "the prompt has 64 tokens, and the model takes 64"),
        (["fine", None], "a prompt must be text, token ids, .* got a NoneType"),
        (["fine", 7.5], "got a float"),
        (["fine", b"bytes"], "got a bytes"),
        (["fine", [1, "a"]], "a prompt's token ids must be whole numbers, got 'a'"),
        ([1, 2.5], "got a int"),
        (["fine", {"text": "a"}], r"a prompt of keys \['text'\] is not supported: use 'prompt'"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "is not supported"),
        ({"prompt_token_ids": "abc"}, "got a str"),
        ({"prompt": [1, 2]}, "got a NoneType"),
    ],
)
def test_one_bad_prompt_and_none_is_started(llm: LLM, prompts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        llm.generate(prompts, GREEDY)
    assert llm.engine.stats().num_running == 0


def test_one_that_fails_does_so_alone(llm: LLM, alone: dict[str, list[int]]) -> None:
    impossible = SamplingParams(allowed_token_ids=(2,), min_tokens=1)
    good, failed = llm.generate(TEXTS[:2], [GREEDY, impossible])
    assert ids_of([good]) == [alone["one"]]
    assert failed.outputs[0].finish_reason == "error"
    assert failed.outputs[0].error is not None
    assert failed.outputs[0].error.startswith("no token may be sampled")


def test_logprobs_have_their_texts(llm: LLM) -> None:
    asked = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=1)
    (output,) = llm.generate("hi", asked)
    (only,) = output.outputs
    for token_id, found in zip(only.token_ids, only.logprobs or [], strict=True):
        assert found[token_id].rank == 1
        assert found[token_id].decoded_token == llm.tokenizer.token(token_id)
        assert len(found) == 2
    first, second = output.prompt_logprobs or []
    assert first is None
    assert second is not None
    assert second[llm.tokenizer.encode("hi")[1]].decoded_token == "i"


def test_chat(llm: LLM) -> None:
    talk = [{"role": "user", "content": "hi"}]
    (one,) = llm.chat(talk, GREEDY)
    assert llm.tokenizer.decode(one.prompt_token_ids) == "user: hi\nbot:"
    assert (
        one.outputs[0].token_ids == llm.generate("user: hi\nbot:", GREEDY)[0].outputs[0].token_ids
    )
    several = llm.chat([talk, [*talk, {"role": "bot", "content": "ho"}]], GREEDY)
    assert [llm.tokenizer.decode(each.prompt_token_ids) for each in several] == [
        "user: hi\nbot:", "user: hi\nbot: ho\nbot:",
    ]  # fmt: skip
    (bare,) = llm.chat(talk, GREEDY, add_generation_prompt=False)
    assert llm.tokenizer.decode(bare.prompt_token_ids) == "user: hi\n"
    (marked,) = llm.chat(talk, GREEDY, mark="?")
    assert llm.tokenizer.decode(marked.prompt_token_ids) == "user: hi\nbot?:"
    with pytest.raises(ValueError, match="messages is empty"):
        llm.chat([], GREEDY)


def test_a_chat_template_is_given(model: str) -> None:
    given = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    other = LLM(model, chat_template=given, **SIZES)
    talk = [{"role": "user", "content": "hi"}]
    (one,) = other.chat(talk, GREEDY)
    assert other.tokenizer.decode(one.prompt_token_ids) == "<hi>"
    assert ids_of([one]) == ids_of(other.generate("<hi>", GREEDY))


def test_a_chat_takes_tools_and_variables() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    talk = [{"role": "user", "content": "hi"}]

    def prompt(source: str, **more: Any) -> str:
        tokenizer = byte_tokenizer(source)
        template = model_template(tokenizer)
        text = tokenizer.decode(chat_prompt(tokenizer, template, talk, tools=tools, **more))
        template.close()
        return text

    shows = "{{ tools | length }}{{ mark }}{{ messages[0].content }}"
    assert prompt(shows, chat_template_kwargs={"mark": "?"}) == prompt(shows, mark="?") == "1?hi"
    described = prompt("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert described.startswith("You can call functions.")
    assert described.endswith("hi")


def test_a_model_without_a_template_can_not_chat() -> None:
    tokenizer = byte_tokenizer(None)
    with pytest.raises(ValueError, match="the model has no chat template"):
        chat_prompt(tokenizer, model_template(tokenizer), [{"role": "user", "content": "hi"}])
    assert make_request(tokenizer, "hi", GREEDY, "r").prompt_token_ids == (256, 104, 105)


def test_progress(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    llm.generate(TEXTS, GREEDY, use_tqdm=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (8, 8)
    assert len({done for done, _ in seen}) > 2
    assert capsys.readouterr().out == ""
    assert len(llm.generate(TEXTS[:2], GREEDY, use_tqdm=True)) == 2


def test_an_interrupt_leaves_an_engine_that_works(llm: LLM, alone: dict[str, list[int]]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    before = llm.engine.stats()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(TEXTS * 2, GREEDY, use_tqdm=interrupt)
    stats = llm.engine.stats()
    assert llm.engine.stats().num_running == 0
    assert (stats.num_running, stats.num_waiting, stats.num_used_pages) == (0, 0, 0)
    assert stats.num_aborted > before.num_aborted
    assert ids_of(llm.generate(TEXTS, GREEDY)) == [alone[text] for text in TEXTS]


def test_a_model_that_can_not_be_served_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="max_model_length"):
        LLM(model, max_model_length=3)
    with pytest.raises(ValueError, match="max_model_len is 65, and the model was made for 64"):
        LLM(model, max_model_len=65)
    with pytest.raises(ValueError, match="found no model 'no such model'"):
        LLM("no such model", offline=True)
    shutil.copytree(GOLDEN, tmp_path / "golden")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json"):
        LLM(str(tmp_path / "golden"), **SIZES)


@pytest.fixture(scope="module")
def served(model: str) -> Iterator[AsyncLLM]:
    served = AsyncLLM(model, **SIZES)
    yield served
    asyncio.run(served.shutdown())
    with pytest.raises(EngineClosedError, match="shutting down"):
        asyncio.run(last_of(served, "one", GREEDY, "late"))


async def last_of(
    served: AsyncLLM, prompt: Any, sampling: SamplingParams, request_id: str
) -> RequestOutput:
    """The whole output, after checking that it only grew."""
    output, num_tokens, text = None, 0, ""
    async for output in served.generate(prompt, sampling, request_id):
        (only,) = output.outputs
        assert len(only.token_ids) > num_tokens or output.finished
        assert only.text.startswith(text)
        num_tokens, text = len(only.token_ids), only.text
    assert output is not None
    return output


def test_streams_are_what_generate_gives(served: AsyncLLM, alone: dict[str, list[int]]) -> None:
    async def body() -> list[RequestOutput]:
        streams = (last_of(served, text, GREEDY, text) for text in TEXTS)
        return list(await asyncio.gather(*streams))

    outputs = asyncio.run(body())
    assert ids_of(outputs) == [alone[text] for text in TEXTS]
    assert [output.prompt for output in outputs] == TEXTS
    assert all(output.finished for output in outputs)


LONG = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)


def test_leaving_a_stream_aborts_it(served: AsyncLLM) -> None:
    async def body() -> None:
        before = served.engine.stats().num_aborted

        async def aborted(num: int) -> None:
            while served.engine.stats().num_aborted < before + num:
                await asyncio.sleep(0.001)
            assert served.engine.stats().num_used_pages == 0

        stream: Any = served.generate("one", LONG, "left")
        assert len((await anext(stream)).outputs[0].token_ids) == 1
        await stream.aclose()
        await aborted(1)
        task = asyncio.create_task(last_of(served, "two words", LONG, "cancelled"))
        while not served.engine.stats().num_running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await aborted(2)

    asyncio.run(body())


def test_an_abort_ends_a_stream(served: AsyncLLM) -> None:
    async def body() -> None:
        outputs = []
        async for output in served.generate("one", LONG, "aborted"):
            outputs.append(output)
            served.abort("aborted")
        assert (outputs[-1].outputs[0].finish_reason, outputs[-1].finished) == ("abort", True)
        assert len(outputs[-1].outputs[0].token_ids) < 60

    asyncio.run(body())


def test_a_stream_is_refused_as_generate_is(served: AsyncLLM) -> None:
    async def body() -> None:
        first: Any = served.generate("one", LONG, "open")
        await anext(first)
        with pytest.raises(ValueError, match="request id 'open' is in use"):
            await last_of(served, "one", LONG, "open")
        await first.aclose()
        with pytest.raises(ValueError, match="the prompt is empty"):
            await last_of(served, "", LONG, "empty")

    asyncio.run(body())


def test_chat_streams(served: AsyncLLM, llm: LLM) -> None:
    async def body() -> RequestOutput:
        talk = [{"role": "user", "content": "hi"}]
        outputs = [output async for output in served.chat(talk, GREEDY, "chat", mark="?")]
        assert len(outputs) >= 2
        return outputs[-1]

    output = asyncio.run(body())
    (expected,) = llm.generate("user: hi\nbot?:", GREEDY)
    assert ids_of([output]) == ids_of([expected])


def test_an_output_has_the_structure_that_is_asked_for(llm: LLM, served: AsyncLLM) -> None:
    choice = StructuredOutputs(choice=["yes", "no"])
    asked = replace(GREEDY, max_tokens=5, ignore_eos=False, structured_outputs=choice)
    outputs = llm.generate(TEXTS, [asked, GREEDY] * 4)
    assert {output.outputs[0].text for output in outputs[::2]} <= {"yes", "no"}
    assert [output.outputs[0].finish_reason for output in outputs] == ["stop", "length"] * 4
    plain = llm.generate(TEXTS[1::2], GREEDY)
    assert ids_of(outputs[1::2]) == ids_of(plain)
    assert ids_of([asyncio.run(last_of(served, TEXTS[0], asked, "s"))]) == ids_of(outputs[:1])
    (talk,) = llm.chat([{"role": "user", "content": "hi"}], asked, mark="?")
    assert talk.outputs[0].text in ("yes", "no")


def test_a_structure_that_can_not_be_done_is_refused(llm: LLM, served: AsyncLLM) -> None:
    asked = replace(GREEDY, structured_outputs=StructuredOutputs(json={"uniqueItems": True}))
    with pytest.raises(ValueError, match='the keyword "uniqueItems" is not supported'):
        llm.generate(["one", "two"], asked)
    with pytest.raises(ValueError, match='the keyword "uniqueItems" is not supported'):
        asyncio.run(last_of(served, "one", asked, "s"))
    assert llm.engine.stats().num_running == 0
