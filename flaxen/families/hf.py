"""Reads and writes the fields that the families' Hugging Face config.json files share.

A field that would change the result is used or refused by its name; fields of training, generation
and bookkeeping are ignored. Deliberately does not know any family, nor files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from flaxen.families.hf_refused import check_refused
from flaxen.families.hf_rope import rope_config, rope_fields
from flaxen.families.hf_values import flag, listed_kinds, natural, positive, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import Activation, DenseMlp
from flaxen.models.layers.norm import Norm

Part = TypeVar("Part")

_MAX_LAYERS = 1000

_ACTIVATIONS: Mapping[str, Activation] = {  # transformers' names
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
ACTIVATION_NAMES: Mapping[Activation, str] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
}

# This attention stands in config.json where no layer has any.
NO_ATTENTION = Attention(num_heads=1, num_kv_heads=1, head_dim=64, rope=None)


def decoder_config(
    hf: Mapping[str, Any],
    *,
    attention: Mapping[str, Any] | None = None,
    mlp: Mapping[str, Any] | None = None,
    norm: Norm | None = None,
    layer: Mapping[str, Any] | None = None,
    windows: Sequence[int | None] = (),
    reads: Collection[str] = (),
    refused: Collection[str] = (),
    **own: Any,
) -> DecoderConfig:
    """Makes the decoder's configuration from the shared fields and a family's own.

    Without the last, it is Llama's: RMS norms before each part, one rope, a SiLU-gated MLP.

    Args:
      hf: the fields of config.json.
      attention: fields of Attention in all layers, beside the sizes and rope of config.json.
      mlp: the same of DenseMlp.
      norm: of all layers, and before the unembedding; None is an RMS norm.
      layer: the same of LayerConfig.
      windows: each layer's sliding window; () for none. Anything else that differs from layer to
          layer is changed by DecoderConfig.with_layers.
      reads: fields that the family reads itself, and that other families refuse.
      refused: fields of other families that must not be set here.
      own: fields of DecoderConfig.

    Raises:
      ValueError: a field is missing, has the wrong type, or is not supported.
    """
    check_refused(hf, reads, refused)
    norm = norm or rms_norm(hf)
    own_attention = {**attention_sizes(hf), **(attention or {})}
    if "rope" not in own_attention:
        own_attention["rope"] = rope_config(hf)
    mixer = Attention(**own_attention)
    own_mlp = dict(mlp or {})
    if "mlp_dim" not in own_mlp:
        own_mlp["mlp_dim"] = whole(hf, "intermediate_size")
    dense = DenseMlp(**own_mlp)
    count = num_layers(hf)
    return DecoderConfig(
        **{
            "vocab_size": whole(hf, "vocab_size"),
            "model_dim": whole(hf, "hidden_size"),
            "layers": tuple(
                LayerConfig(
                    mixer=replace(mixer, window=window), mlp=dense, norm=norm, **(layer or {})
                )
                for window in windows or (mixer.window,) * count
            ),
            "final_norm": norm,
            "tied_embeddings": flag(hf, "tie_word_embeddings"),
            "max_position": whole(hf, "max_position_embeddings"),
            **own,
        }
    )


def attention_sizes(hf: Mapping[str, Any]) -> dict[str, int]:
    """The heads of attention: num_heads, num_kv_heads and head_dim."""
    num_heads = whole(hf, "num_attention_heads")
    head_dim = whole(hf, "head_dim", default=0)
    if head_dim == 0:
        model_dim = whole(hf, "hidden_size")
        if model_dim % num_heads:
            raise ValueError(
                f"the configuration has no head_dim, and hidden_size ({model_dim}) is not a "
                f"multiple of num_attention_heads ({num_heads}): add head_dim"
            )
        head_dim = model_dim // num_heads
    return {
        "num_heads": num_heads,
        "num_kv_heads": whole(hf, "num_key_value_heads", default=num_heads),
        "head_dim": head_dim,
    }


def decoder_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the shared fields of config.json, from the first layers that have each.

    What a family has beside them it writes itself: biases, norms of heads, windows, other names,
    experts. A model of experts alone has their size for intermediate_size.
    """
    mixer = first(config, Attention, NO_ATTENTION)
    mlps = [layer.mlp for layer in config.layers]
    dense = [each for each in mlps if isinstance(each, DenseMlp)]
    mlp_dim = dense[0].mlp_dim if dense else first(config, Experts).mlp_dim
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": mlp_dim,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_act": ACTIVATION_NAMES[dense[0].activation if dense else "silu"],
        "rms_norm_eps": config.final_norm.eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tied_embeddings,
        **({} if mixer.rope is None else rope_fields(mixer.rope)),
    }


def first(config: DecoderConfig, kind: type[Part], default: Part | None = None) -> Part:
    """The first mixer or MLP of a kind in the layers; the default where no layer has one.

    Raises:
      ValueError: no layer has one, and there is no default.
    """
    for layer in config.layers:
        for part in (layer.mixer, layer.mlp):
            if isinstance(part, kind):
                return part
    if default is not None:
        return default
    raise ValueError(f"the model has no layer with {kind.__name__}")


def has_bias(config: DecoderConfig, name: str) -> bool:
    """Whether the first layer's weight `name` has a bias."""
    return "b" + name[1:] in config.layers[0].param_specs(config.model_dim)


def attention_biases(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights of attention that have a bias where attention_bias is true: all."""
    return ("wq", "wk", "wv", "wo") if flag(hf, "attention_bias") else ()


def mlp_biases(hf: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights of a gated MLP that have a bias where mlp_bias is true: all."""
    return ("w_gate", "w_up", "w_down") if flag(hf, "mlp_bias") else ()


def rms_norm(hf: Mapping[str, Any], **own: Any) -> Norm:
    """The RMS norm of rms_norm_eps, with fields of Norm."""
    return Norm(eps=positive(hf, "rms_norm_eps", 1e-6), **own)


def layer_norm(hf: Mapping[str, Any], name: str, *, bias: bool) -> Norm:
    """The layer norm whose epsilon has this name."""
    return Norm(kind="layer", eps=positive(hf, name, 1e-5), bias=bias)


def activation(hf: Mapping[str, Any], name: str, default: str | None = None) -> Activation:
    """The activation that a field names.

    Raises:
      ValueError: it is not supported, or missing without a default.
    """
    value = str(hf.get(name) or default)
    if value not in _ACTIVATIONS:
        raise ValueError(
            f"{name} = {value!r} is not supported, and another activation would change the "
            f"result: use one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[value]


def layer_windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's sliding window, by layer_types or, without it, by max_window_layers.

    Raises:
      ValueError: layer_types has an unknown kind, another length, or no window to slide.
    """
    count = num_layers(hf)
    window: int | None = None
    if flag(hf, "use_sliding_window"):
        window = whole(hf, "sliding_window")
    kinds = hf.get("layer_types")
    if kinds is None:
        if window is None:
            return (None,) * count
        num_full = natural(hf, "max_window_layers")
        return tuple(None if i < num_full else window for i in range(count))
    kinds = listed_kinds(kinds, count, ("full_attention", "sliding_attention"))
    if window is None and "sliding_attention" in kinds:
        raise ValueError(
            "layer_types has sliding_attention, but use_sliding_window is not true: "
            "set it, with sliding_window, or make every layer full_attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def window_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of layer_windows, for layers with one common window or none."""
    found = windows(config)
    slid = [window for window in found if window is not None]
    if not slid:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": slid[0],
        "max_window_layers": next(i for i, each in enumerate(found) if each is not None),
        "layer_types": layer_types(config),
    }


def windows(config: DecoderConfig) -> tuple[int | None, ...]:
    """Each layer's sliding window; None where attention is not limited by one."""
    return tuple(
        layer.mixer.window if isinstance(layer.mixer, Attention) else None
        for layer in config.layers
    )


def layer_types(config: DecoderConfig) -> list[str]:
    """The field layer_types, for layers of full and sliding attention."""
    return ["full_attention" if each is None else "sliding_attention" for each in windows(config)]


def num_layers(hf: Mapping[str, Any]) -> int:
    """The number of layers, limited so that a damaged file is refused."""
    count = whole(hf, "num_hidden_layers")
    if count > _MAX_LAYERS:
        raise ValueError(f"num_hidden_layers must be at most {_MAX_LAYERS}, got {count}")
    return count
