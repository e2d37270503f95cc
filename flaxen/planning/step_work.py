"""Counts from shapes what one device of an engine reads, multiplies and sends in a step.

A lower bound: weights and keys are read once, and activations stay on the chip. Deliberately does
not know hardware, nor how memory is divided.
"""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.execution.shapes import Shape
from flaxen.models.cache import Paged, Sliding, State, numbers_per_key
from flaxen.models.layout import device_specs, vocab_placement
from flaxen.models.model import Model, Params
from flaxen.planning.collectives import Collective
from flaxen.planning.params import num_query_heads, param_cost
from flaxen.planning.roofline import Work

# Operations for each number of a state and token: it decays, is read twice and added to.
STATE_OPERATIONS = 6
_FLOAT32 = 4  # bytes: of logits, and of the sums of products that devices add up


@dataclass(frozen=True, kw_only=True)
class Load:
    """The sequences of a step."""

    shape: Shape  # of the program, to which the step is padded
    num_seqs: int
    new_tokens: int  # of each sequence, at its end
    context: int  # tokens of each after the step


def step_work(
    model: Model, params: Params, load: Load, itemsize: int, *, cache_itemsize: int
) -> Work:
    """The work of one device of the model's mesh.

    Args:
      model: the model on its mesh.
      params: the shapes of its parameters.
      load: of the step.
      itemsize: bytes of one number in the dtype of compute.
      cache_itemsize: bytes of one number in that of the KV cache.
    """
    cost = param_cost(model.param_specs, params)
    num_parts = _num_parts(model)
    heads = num_query_heads(model.param_specs) // num_parts
    cache_bytes = attention = 0
    for spec in device_specs(model):
        if isinstance(spec, State):
            cache_bytes += 2 * load.num_seqs * spec.bytes_per_sequence  # read, and written
            attention += load.num_seqs * load.new_tokens * STATE_OPERATIONS * spec.num_values
            continue
        keys, met = met_keys(spec, load.new_tokens, load.context)
        moved = load.num_seqs * (keys + load.new_tokens)  # read, and written
        cache_bytes += moved * spec.bytes_per_token(cache_itemsize)
        attention += load.num_seqs * met * 2 * heads * numbers_per_key(spec)
    tokens, rows = load.shape.num_tokens, load.shape.num_seqs
    products = cost.layer_values * tokens + cost.unembed_values * rows
    parts = 1 if vocab_placement(model) is None else num_parts
    return Work(
        weight_bytes=cost.read_bytes,
        cache_bytes=cache_bytes,
        other_bytes=2 * rows * model.vocab_size // parts * _FLOAT32,  # logits, written and read
        num_operations=float(2 * products + attention),
        collectives=expected_collectives(model, tokens, itemsize),
    )


def expected_collectives(model: Model, num_tokens: int, itemsize: int) -> tuple[Collective, ...]:
    """The sums of tensor parallelism: two in each layer, and one of the embeddings, of which each
    device has those of its part of the vocabulary.

    Args:
      model: the model on its mesh.
      num_tokens: T.
      itemsize: bytes of one number in the dtype of compute.
    """
    parts = _num_parts(model)
    if parts == 1 or model.embed_dim is None:
        return ()
    values = num_tokens * model.embed_dim
    has_table = vocab_placement(model) is not None
    num_sums = 2 * len(model.cache_specs)
    return (
        Collective(
            kind="all-reduce",
            num_devices=parts,
            count=num_sums + has_table,
            num_bytes=values * (num_sums * _FLOAT32 + has_table * itemsize),
        ),
    )


def _num_parts(model: Model) -> int:
    return 1 if model.placement is None else model.placement.shape.tensor


def met_keys(spec: Paged, new_tokens: int, context: int) -> tuple[int, int]:
    """The keys that a sequence's new tokens see.

    Args:
      spec: the layer's cache.
      new_tokens: at the sequence's end.
      context: its tokens, the new ones included.

    Returns:
      How many keys there are, and how many there are for each token, added up.
    """
    window = spec.window if isinstance(spec, Sliding) else context
    first = context - new_tokens + 1  # how many tokens the first new one would see without a window
    growing = max(0, min(context, window) - first + 1)  # tokens that see no more than a window
    met = growing * (2 * first + growing - 1) // 2 + (new_tokens - growing) * window
    return min(context, window + new_tokens - 1), met
