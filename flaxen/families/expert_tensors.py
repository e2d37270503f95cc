"""The rules that families with experts share: the tensors of routers, experts and shared experts.

Deliberately does not know any family, or how the rules are carried out.
"""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.families.rules import (
    Alternate,
    Rules,
    Split,
    Stack,
    TensorRule,
    as_is,
    matrix,
    with_rules,
)
from flaxen.families.tensors import GGUF, GGUF_INTERLEAVED, HF

_PARTS = ("gate", "up", "down")
GATE_UP = ("w_experts_gate", "w_experts_up")


def one_by_one(names: str, gate: str, up: str, down: str) -> Rules:
    """Experts of which each has tensors of its own.

    Args:
      names: a weight's, with {expert}, and {part} for one of the next three.
      gate: the part's name.
      up: the same.
      down: the same.
    """
    given = zip(_PARTS, (gate, up, down), strict=True)
    return tuple(
        matrix(f"w_experts_{part}", names.replace("{part}", name), Stack()) for part, name in given
    )


def shared(
    names: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> Rules:
    """Shared experts; {part} in their names stands for one of the others."""
    given = zip(_PARTS, (gate, up, down), strict=True)
    return tuple(matrix(f"w_shared_{part}", names.replace("{part}", name)) for part, name in given)


def fused(
    params: tuple[str, str], tensor: str, *, axis: int, transposed: bool = True
) -> TensorRule:
    """Gate and up in one tensor, one after the other along an axis."""
    return TensorRule(
        params=params, tensors=(tensor,), steps=(Split((1, 1), axis=axis),), transposed=transposed
    )


def alternating(
    params: tuple[str, str], tensor: str, *, axis: int, transposed: bool = False
) -> TensorRule:
    """Gate and up in one tensor, in turns along an axis."""
    steps = (Alternate(axis=axis),)
    return TensorRule(params=params, tensors=(tensor,), steps=steps, transposed=transposed)


_MLP = "model.layers.{layer}.mlp."
_EXPERTS = one_by_one(_MLP + "experts.{expert}.{part}.weight", "gate_proj", "up_proj", "down_proj")

# Qwen's names, and DeepSeek's, which differ in the shared experts.
QWEN: Rules = with_rules(
    HF,
    matrix("w_router", _MLP + "gate.weight"),
    *_EXPERTS,
    *shared(_MLP + "shared_expert.{part}.weight"),
    matrix("w_shared_router", _MLP + "shared_expert_gate.weight"),
)
DEEPSEEK: Rules = with_rules(
    QWEN,
    as_is("b_router_selection", _MLP + "gate.e_score_correction_bias"),
    *shared(_MLP + "shared_experts.{part}.weight"),
)

_SPARSE = "model.layers.{layer}.block_sparse_moe."
MIXTRAL: Rules = with_rules(
    HF,
    matrix("w_router", _SPARSE + "gate.weight"),
    *one_by_one(_SPARSE + "experts.{expert}.{part}.weight", "w1", "w3", "w2"),
)
GRANITE: Rules = with_rules(
    HF,
    matrix("w_router", _SPARSE + "router.layer.weight"),
    fused(GATE_UP, _SPARSE + "input_linear.weight", axis=1),
    matrix("w_experts_down", _SPARSE + "output_linear.weight"),
    fused(
        ("w_shared_gate", "w_shared_up"),
        "model.layers.{layer}.shared_mlp.input_linear.weight",
        axis=0,
    ),
    matrix("w_shared_down", "model.layers.{layer}.shared_mlp.output_linear.weight"),
)
GPT_OSS: Rules = with_rules(
    HF,
    as_is("sinks", "model.layers.{layer}.self_attn.sinks"),
    matrix("w_router", _MLP + "router.weight"),
    as_is("b_router", _MLP + "router.bias"),
    alternating(GATE_UP, _MLP + "experts.gate_up_proj", axis=2),
    alternating(("b_experts_gate", "b_experts_up"), _MLP + "experts.gate_up_proj_bias", axis=1),
    as_is("w_experts_down", _MLP + "experts.down_proj"),
    as_is("b_experts_down", _MLP + "experts.down_proj_bias"),
)
# The blocks of MXFP4 are those of [out, in].
GPT_OSS_MXFP4: Rules = with_rules(
    GPT_OSS,
    alternating(GATE_UP, _MLP + "experts.gate_up_proj", axis=1, transposed=True),
    matrix("w_experts_down", _MLP + "experts.down_proj"),
)
_FEED_FORWARD = "model.layers.{layer}.feed_forward."
LLAMA4: Rules = with_rules(
    HF,
    *(matrix(f"w_{part}", f"{_FEED_FORWARD}{part}_proj.weight") for part in _PARTS),
    matrix("w_router", _FEED_FORWARD + "router.weight"),
    fused(GATE_UP, _FEED_FORWARD + "experts.gate_up_proj", axis=2, transposed=False),
    as_is("w_experts_down", _FEED_FORWARD + "experts.down_proj"),
    *shared(_FEED_FORWARD + "shared_expert.{part}.weight"),
)

_BLOCK = "blk.{layer}.ffn_"
_GGUF: Rules = (
    matrix("w_router", _BLOCK + "gate_inp.weight"),
    as_is("b_router_selection", "blk.{layer}.exp_probs_b.bias"),
    *(matrix(f"w_experts_{part}", f"{_BLOCK}{part}_exps.weight") for part in _PARTS),
    *(matrix(f"w_shared_{part}", f"{_BLOCK}{part}_shexp.weight") for part in _PARTS),
    matrix("w_shared_router", _BLOCK + "gate_inp_shexp.weight"),
)
# What some converters write in place of the stacks, by the end of a tensor's name.
GGUF_VARIANTS: Mapping[str, Rules] = {
    "ffn_gate.0.weight": one_by_one("blk.{layer}.ffn_{part}.{expert}.weight", "gate", "up", "down"),
    "ffn_gate_up_exps.weight": (fused(GATE_UP, _BLOCK + "gate_up_exps.weight", axis=1),),
}
GGUF_EXPERTS: Rules = with_rules(GGUF, *_GGUF)
# The norm before the experts has the name of one after attention.
GGUF_EXPERTS_POST: Rules = with_rules(
    GGUF_EXPERTS, as_is("mlp_norm", "blk.{layer}.post_attention_norm.weight")
)
GGUF_EXPERTS_INTERLEAVED: Rules = with_rules(GGUF_INTERLEAVED, *_GGUF)
GGUF_GPT_OSS: Rules = with_rules(
    GGUF_EXPERTS_POST,
    as_is("sinks", "blk.{layer}.attn_sinks.weight"),
    as_is("b_router", _BLOCK + "gate_inp.bias"),
    *(as_is(f"b_experts_{part}", f"{_BLOCK}{part}_exps.bias") for part in _PARTS),
)
