"""What a class of transformers asks of attention: windows that only its masks have, and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flaxen.bridges.torch.attend import attend_torch
from flaxen.bridges.torch.attention import check_options, our_attention
from flaxen.bridges.torch.bridge import from_torch
from flaxen.bridges.torch.masks import find_windows
from flaxen.bridges.torch.transformers import from_transformers
from tests.bridges.test_torch_architectures import SIZES
from tests.bridges.torch_models import Own, make


class Masked(torch.nn.Module):
    """A class of one layer, which makes its mask by a function of transformers."""

    def __init__(self, mask: Callable[..., Any], fields: dict[str, Any], options: Any) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 1})
        for name, value in fields.items():
            setattr(self.config, name, value)
        self.mask, self.options = mask, options

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool
    ) -> torch.Tensor:
        x = torch.zeros(*input_ids.shape, 32)
        heads = torch.zeros(input_ids.shape[0], 4, input_ids.shape[1], 8)
        mask = self.mask(
            config=self.config, inputs_embeds=x, attention_mask=None, cache=None,
            position_ids=position_ids,
        )  # fmt: skip
        attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        found: torch.Tensor = attention(self, heads, heads, heads, mask, **self.options)[0]
        return found


def no_mask(**_: Any) -> None:
    return None


def with_and(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **given: masking_utils.create_causal_mask(**given, and_mask_function=function)


def with_or(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **given: masking_utils.create_causal_mask(**given, or_mask_function=function)


def sliding(**given: Any) -> Any:
    return masking_utils.create_sliding_window_causal_mask(**given)


def of_ids(ids: list[int]) -> Callable[..., Any]:
    """Tokens with the same number above -1 see each other, as those of an image do."""
    return lambda **given: masking_utils.create_causal_mask(
        **given, block_sequence_ids=torch.tensor([ids])
    )


@pytest.mark.parametrize(
    ("mask", "fields", "window"),
    [
        (masking_utils.create_causal_mask, {}, None),
        (no_mask, {}, None),
        (sliding, {"sliding_window": 1}, 1),
        (sliding, {"sliding_window": 24}, 24),
        (sliding, {"sliding_window": 300_000}, 300_000),
        (with_and(lambda b, h, q, k: k > q - 30), {}, 30),
        (with_and(lambda b, h, q, k: k > q - 5000), {}, 5000),
        (of_ids([-1] * 8), {}, None),
    ],
)
def test_a_window_is_read_from_the_mask(mask: Any, fields: Any, window: int | None) -> None:
    module: Any = Masked(mask, fields, {"sliding_window": 7})  # which no function for CPUs reads
    assert find_windows(module, "Masked") == {module: window}


@pytest.mark.parametrize(
    ("mask", "fields", "options", "message"),
    [
        (with_or(lambda b, h, q, k: k < 4), {}, {}, "Masked is not causal: its tokens see later"),
        (masking_utils.create_bidirectional_mask, {}, {}, "Masked is not causal"),
        (masking_utils.create_causal_mask, {"is_causal": False}, {}, "Masked is not causal"),
        (no_mask, {}, {"is_causal": False}, "Masked is not causal"),
        (
            masking_utils.create_chunked_causal_mask, {"attention_chunk_size": 24}, {},
            r"Masked's mask is neither causal nor a sliding window \(attention in chunks",
        ),
        (with_and(lambda b, h, q, k: k % 2 == q % 2), {}, {}, "mask is neither causal nor a slid"),
        (with_and(lambda b, h, q, k: (k > q - 9) | (k == 0)), {}, {}, "neither causal nor a slid"),
        (of_ids([-1, -1, -1, -1, 0, 0, 0, -1]), {}, {}, "Masked's mask depends on the tokens"),
        (
            lambda **_: torch.ones(1, 1, 8, 8).tril().bool(), {}, {},
            "Masked's attention comes with a mask of its own",
        ),
        (no_mask, {}, {"sinks": torch.zeros(4)}, "Masked's attention requires sinks, which is not"),
    ],
)  # fmt: skip
def test_other_masks_are_refused(mask: Any, fields: Any, options: Any, message: str) -> None:
    module: Any = Masked(mask, fields, options)
    with pytest.raises(ValueError, match=message):
        find_windows(module, "Masked")


@pytest.mark.parametrize(
    "option", ["sinks", "s_aux", "indices", "block_indices", "position_bias", "head_mask", "new"]
)
def test_options_are_honoured_or_refused_by_name(option: str) -> None:
    check_options("FooAttention", {option: None, "scaling": 0.5, "sliding_window": 3, "x": False})
    message = f"FooAttention's attention requires {option}, which is not supported"
    with pytest.raises(ValueError, match=message):
        check_options("FooAttention", {option: torch.ones(1)})
    heads, module = torch.zeros(1, 2, 4, 8), torch.nn.Identity()
    with pytest.raises(ValueError, match=f"Identity's attention requires {option}"):
        our_attention({module: None})(module, heads, heads, heads, None, **{option: 1})


def test_values_that_are_wider_than_keys_are_refused() -> None:
    module, narrow, wide = torch.nn.Identity(), torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 16)
    with pytest.raises(ValueError, match="Identity has keys of 8 and values of 16: values that"):
        our_attention({module: None})(module, narrow, narrow, wide, None)


def test_a_refused_module_still_runs_by_itself() -> None:
    module = make("Bloom")
    own = module.config._attn_implementation
    with pytest.raises(ValueError, match="0 of them call"):
        from_transformers(module)
    assert module.config._attn_implementation == own
    assert module(torch.arange(1, 9)[None]).logits.shape == (1, 8, 272)


class OneSided(Own):
    """Has a window only where it runs by itself."""

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position(positions)
        q, k, v = (each.unflatten(-1, (4, 16)) for each in self.qkv(self.norm(x)).chunk(3, dim=-1))
        window = 20 if type(tokens) is torch.Tensor else None
        x = x + self.out(attend_torch(q, k, v, window=window).flatten(-2))
        return self.norm(x) @ self.embed.weight.T


@pytest.mark.slow
def test_the_check_goes_past_each_window_that_is_named() -> None:
    from_torch(OneSided(), max_position=128)  # whose 16 tokens tell nothing
    with pytest.raises(
        ValueError, match="OneSided gives other logits with flaxen's attention than"
    ):
        from_torch(OneSided(), max_position=128, windows=(20,))


@pytest.mark.slow
def test_positions_that_do_not_begin_at_0_are_refused() -> None:
    config = transformers.RobertaConfig(**SIZES, is_decoder=True)
    with pytest.raises(ValueError, match=r"RobertaForCausalLM .* its first position must be 0"):
        from_transformers(transformers.RobertaForCausalLM(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quantization_config", {"quant_method": "awq"}, "was loaded with quantization_config"),
        ("is_encoder_decoder", True, "LlamaForCausalLM has an encoder and a decoder"),
    ],
)
def test_what_a_module_says_of_itself(field: str, value: Any, message: str) -> None:
    module = make("Llama")
    setattr(module.config, field, value)
    with pytest.raises(ValueError, match=message):
        from_transformers(module)
