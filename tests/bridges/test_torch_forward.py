"""The arguments that a PyTorch module's forward takes: positions are passed where it takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flaxen.bridges.torch.attend import attend_torch
from flaxen.bridges.torch.bridge import call_forward, from_torch


class TokensAlone(torch.nn.Module):
    """A language model without positions, as attention under a causal mask allows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(272, 32)
        self.qkv = torch.nn.Linear(32, 96)
        self.head = torch.nn.Linear(32, 272)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).reshape(*x.shape[:-1], 6, 16).split(2, -2)
        return self.head(x + attend_torch(q, k, v).reshape(x.shape))


class Required(torch.nn.Module):
    def forward(self, ids: Any, where: Any) -> Any:
        return ids, where


class Named(torch.nn.Module):
    def forward(self, ids: Any, mask: Any = None, *, position_ids: Any = None) -> Any:
        return ids, mask, position_ids


class Wrapped(torch.nn.Module):
    def forward(self, *inputs: Any) -> Any:
        return inputs


class Masked(torch.nn.Module):
    def forward(self, tokens: Any, positions: Any, mask: Any) -> Any:
        return tokens, positions, mask


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Required(), ("tokens", "positions")),
        (Named(), ("tokens", None, "positions")),
        (Wrapped(), ("tokens", "positions")),
        (torch.nn.Identity(), "tokens"),
    ],
)
def test_positions_are_passed_where_forward_takes_them(
    module: torch.nn.Module, expected: Any
) -> None:
    assert call_forward(module, "tokens", "positions") == expected


def test_another_argument_that_is_required_is_refused() -> None:
    with pytest.raises(ValueError, match="requires an argument 'mask', which flaxen does not pass"):
        call_forward(Masked(), "tokens", "positions")


def test_a_module_of_tokens_alone_is_checked_and_taken() -> None:
    model, params = from_torch(TokensAlone(), max_position=64)
    assert model.vocab_size == 272
    assert "embed.weight" in params["params"]
