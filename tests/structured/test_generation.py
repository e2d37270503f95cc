"""Structures through a real engine with a tiny random model, the hardest to hold to one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jax
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.outputs import RequestOutput
from flaxen.protocol import FieldError, ModelInfo, Request, SamplingParams, StructuredOutputs
from flaxen.structured import GrammarCompiler
from flaxen.structured.caps import Caps
from tests.engine.lora import LORA_SHAPE, make_adapter
from tests.engine.tiny import MODEL, PARAMS, prompts, run
from tests.server.fakes import END, byte_tokenizer

TOKENIZER = byte_tokenizer()
CONFIG = replace(LORA_SHAPE, max_num_seqs=8)
COMPILER = GrammarCompiler(
    TOKENIZER, MODEL.vocab_size, (END,), caps=Caps(string=8, items=3, depth=4, digits=4, spaces=2)
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "string"}, "c": {"enum": ["x", "y"]}},
    "required": ["a", "b", "c"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "json": {"json": SCHEMA},
    "json_object": {"json_object": True},
    "regex": {"regex": "[ab]{2,5}c"},
    "choice": {"choice": ["first", "second", "third"]},
    "grammar": {"grammar": 'start: "(" start ")" | "x"'},
    "structural_tag": {
        "structural_tag": {
            "format": {
                "type": "tag",
                "begin": "<f>",
                "content": {"type": "json_schema", "json_schema": SCHEMA},
                "end": "</f>",
            }
        }
    },
}


@pytest.fixture(scope="module")
def executor() -> JaxExecutor:
    return JaxExecutor(
        MODEL,
        PARAMS,
        CONFIG,
        eos_ids=(END,),
        cache_dtype=jax.numpy.dtype("float32"),
        bad_word_ids=lambda words: (),
    )


def make_engine(executor: JaxExecutor) -> Engine:
    info = ModelInfo(
        name="tiny", vocab_size=MODEL.vocab_size, max_model_len=CONFIG.max_model_len,
        max_logprobs=CONFIG.max_logprobs, eos_token_ids=(END,), created=0,
    )  # fmt: skip
    return Engine(CONFIG, executor, info, TOKENIZER)


def ask(name: str, structure: StructuredOutputs, prompt: int = 0, **sampling: Any) -> Request:
    values = {"temperature": 1.0, "seed": 5, "max_tokens": 100, "logprobs": 2, **sampling}
    given = prompts([9, 17, 5, 12, 8, 20])[prompt]
    return Request(
        request_id=name,
        prompt_token_ids=tuple(given),
        sampling=SamplingParams(structured_outputs=structure, **values),
        grammar=COMPILER.compile(structure),
    )


def check(kind: str, text: str) -> None:
    """Fails if a text is not of the structure."""
    if kind == "structural_tag":
        text = text.removeprefix("<f>").removesuffix("</f>")
    if kind in ("json", "structural_tag"):
        value = json.loads(text)
        assert list(value) == ["a", "b", "c"]
        assert isinstance(value["a"], int | float)
        assert len(value["b"]) <= 8
        assert value["c"] in ("x", "y")
    elif kind == "json_object":
        assert isinstance(json.loads(text), dict)
    elif kind == "choice":
        assert text in KINDS["choice"]["choice"]
    else:
        pattern = KINDS["regex"]["regex"] if kind == "regex" else r"\(*x\)*"
        assert re.fullmatch(pattern, text)


def traces(output: RequestOutput) -> list[tuple[Any, ...]]:
    """The tokens of each sequence, and their log-probabilities."""
    return [(each.token_ids, each.finish_reason, each.logprobs) for each in output.outputs]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.0}, {"top_k": 3, "min_p": 0.01}], ids=str
)
def test_each_kind_ends_as_asked_alone_and_beside_others(
    executor: JaxExecutor, sampling: dict[str, Any]
) -> None:
    asked = [
        ask(kind, StructuredOutputs(**fields), i, **sampling)
        for i, (kind, fields) in enumerate(KINDS.items())
    ]
    plain = Request(request_id="plain", prompt_token_ids=(1, 2, 3))
    together = run(make_engine(executor), [*asked, plain])
    for kind, each, output in zip(KINDS, asked, together, strict=False):
        [only] = output.outputs
        if only.finish_reason == "stop":
            check(kind, only.text)
        [alone] = run(make_engine(executor), [each])
        assert traces(alone) == traces(output)
    reasons = [output.outputs[0].finish_reason for output in together[:-1]]
    # Greedily, a random model may open parentheses for ever.
    assert reasons.count("stop") >= 5


def test_each_of_n_follows_the_structure_by_itself(executor: JaxExecutor) -> None:
    structure = StructuredOutputs(choice=KINDS["choice"]["choice"])
    [output] = run(make_engine(executor), [ask("r", structure, n=6)])
    texts = [each.text for each in output.outputs]
    for text in texts:
        check("choice", text)
    assert len(set(texts)) > 1
    [again] = run(make_engine(executor), [ask("r", structure, n=6)])
    assert traces(again) == traces(output)
    [other] = run(make_engine(executor), [ask("r", structure, n=6, seed=77)])
    assert traces(other) != traces(output)


def test_logprobs_are_the_models_own(executor: JaxExecutor) -> None:
    structure = StructuredOutputs(choice=["first"])
    [output] = run(make_engine(executor), [ask("r", structure)])
    [only] = output.outputs
    assert only.logprobs is not None
    # Tokens that the structure forbids are among the likeliest: the model knows of no structure.
    assert any(
        each[token].rank > 2 for token, each in zip(only.token_ids, only.logprobs, strict=True)
    )


def test_a_stop_string_ends_the_text_before_the_structure_does(executor: JaxExecutor) -> None:
    structure = StructuredOutputs(choice=["first"])
    [output] = run(make_engine(executor), [ask("r", structure, stop=["rs"])])
    assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("fi", "stop")


def test_at_the_limit_the_text_is_the_structures_beginning(executor: JaxExecutor) -> None:
    structure = StructuredOutputs(choice=["first"])
    [output] = run(make_engine(executor), [ask("r", structure, max_tokens=3)])
    assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("fir", "length")


def test_the_end_that_comes_too_early_is_impossible(executor: JaxExecutor) -> None:
    structure = StructuredOutputs(choice=["first"])
    [output] = run(make_engine(executor), [ask("r", structure, min_tokens=9)])
    assert "min_tokens and the grammar together forbid all" in str(output.outputs[0].error)


def test_an_adapter_follows_the_structure(executor: JaxExecutor) -> None:
    engine = make_engine(executor)
    engine.adapters.load("one", make_adapter(1))
    structure = StructuredOutputs(**KINDS["json"])
    base, adapted = ask("base", structure), replace(ask("adapted", structure), adapter="one")
    outputs = run(engine, [base, adapted])
    for output in outputs:
        check("json", output.outputs[0].text)
    assert outputs[0].outputs[0].text != outputs[1].outputs[0].text


def test_a_structure_without_its_grammar_is_refused(executor: JaxExecutor) -> None:
    asked = replace(ask("r", StructuredOutputs(regex="a")), grammar=None)
    with pytest.raises(FieldError, match="structured_outputs needs the request's grammar"):
        make_engine(executor).check(asked)


def test_sampling_takes_no_other_value_as_a_structure() -> None:
    with pytest.raises(FieldError, match="must be a StructuredOutputs, got a dict"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]
