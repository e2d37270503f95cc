"""The options of sampling: which hold, and what is said of those that the model's authors set."""

from __future__ import annotations

import dataclasses

import pytest

from flaxen.chat.commands import OPTIONS
from flaxen.cli.sampling import SamplingOptions, describe_defaults
from flaxen.protocol import SamplingParams


def test_only_what_the_user_gave_is_given() -> None:
    assert SamplingOptions().given() == {}
    found = SamplingOptions(temperature=0.0, top_k=0, stop=["a"]).given()
    assert found == {"temperature": 0.0, "top_k": 0, "stop": ["a"]}
    assert SamplingParams(**found).stop == ("a",)


def test_every_option_is_a_parameter() -> None:
    options = {field.name for field in dataclasses.fields(SamplingOptions)}
    assert options == set(OPTIONS)  # of a chat's /set
    assert options < {field.name for field in dataclasses.fields(SamplingParams)}


def test_a_value_out_of_range_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(ValueError, match="repetition_penalty must be a number above 0, got -1"):
        SamplingOptions(repetition_penalty=-1.0).given()


def test_the_models_own_defaults_are_named_unless_the_user_gave_all_of_them() -> None:
    own = {"temperature": 0.6, "top_p": 0.95}
    assert describe_defaults(own, {}, "auto") == (
        "sampling: temperature 0.6, top_p 0.95 by the model's generation_config.json"
    )
    assert describe_defaults(own, {"top_p": 1.0}, "/dir") == "sampling: temperature 0.6 by /dir"
    assert describe_defaults(own, {"top_p": 1.0, "temperature": 0.0}, "auto") is None
    assert describe_defaults({}, {}, "vllm") is None
