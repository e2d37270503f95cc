"""What --speculative-config may say, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.engine.speculative.config import read_config
from flaxen.engine_args import EngineArgs


def test_vllms_keys_are_read() -> None:
    assert read_config({"method": "ngram"}).num_speculative_tokens == 15
    found = read_config({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 7})
    assert (found.prompt_lookup_min, found.prompt_lookup_max) == (7, 7)
    found = read_config({"method": "suffix", "suffix_decoding_max_spec_factor": 2})
    assert found.suffix_decoding_max_spec_factor == 2
    found = read_config({"model": "m", "quantization": "int4"})
    assert (found.method, found.quantization) == ("draft_model", "int4")
    args = EngineArgs(model="m", speculative_config={"method": "suffix"})
    assert args.speculation is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the method None, which is not supported: use ngram, suffix"),
        ("ngram", "must be a mapping, such as {'method': 'ngram'}, got 'ngram'"),
        ({"method": "eagle"}, "the method 'eagle', which is not supported: use ngram, suffix"),
        ({"method": "draft_model"}, "the method draft_model and no model: name the draft model"),
        (
            {"model": "m", "draft_tensor_parallel_size": 2},
            "draft_tensor_parallel_size must be 1, got 2",
        ),
        ({"model": "m", "revision": "v2"}, "which draft_model does not have: leave it out"),
        ({"method": "ngram", "prompt_lookup_min": 0}, "prompt_lookup_min must be at least 1"),
        (
            {"method": "ngram", "prompt_lookup_min": 4, "prompt_lookup_max": 3},
            "prompt_lookup_max must be at least 4, got 3",
        ),
        ({"method": "ngram", "num_speculative_tokens": 2.5}, "must be a whole number, got 2.5"),
        ({"method": "ngram", "num_speculative_tokens": 64}, "tokens must be from 1 to 63, got 64"),
        ({"method": "suffix", "num_speculative_tokens": True}, "must be a whole number, got True"),
        (
            {"method": "suffix", "suffix_decoding_min_token_prob": 2},
            "suffix_decoding_min_token_prob must be from 0 to 1, got 2",
        ),
        (
            {"method": "ngram", "disable_by_batch_size": 8},
            "'disable_by_batch_size', which ngram does not have: leave it out: speculation stops",
        ),
        (
            {"method": "ngram", "suffix_decoding_max_tree_depth": 8},
            "'suffix_decoding_max_tree_depth', which ngram does not have: it belongs to the method "
            "suffix",
        ),
        (
            {"method": "ngram", "speed": 2},
            "'speed', which ngram does not have: the keys of this method are method, "
            "num_speculative_tokens, prompt_lookup_min, prompt_lookup_max",
        ),
    ],
)
def test_the_rest_is_refused_with_what_to_do(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(given)
    with pytest.raises(ValueError, match=message):
        EngineArgs(model="m", speculative_config=given)
