"""examples/three_ways.py: one network in Flax, PyTorch and plain JAX draws the same tokens."""

from __future__ import annotations

import ast

import pytest

from examples.three_ways import main


@pytest.mark.slow  # the tokenizer is the real model's
def test_the_three_print_the_same_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert [name.strip() for name, _ in lines] == ["Flax", "PyTorch", "JAX"]
    tokens = [ast.literal_eval(text) for _, text in lines]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len(set(tokens[0])) > 1  # a network that says one word would hide a difference
    assert len(tokens[0]) == 12
