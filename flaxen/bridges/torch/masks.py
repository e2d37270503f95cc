"""Finds the window of each layer of a transformers class, which only its masks show.

The class is run once over a few tokens, and its masks are examined: each must be causal, perhaps
with a window. Deliberately does not know how a module is traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers.masking_utils import sdpa_mask

from flaxen.bridges.torch.attention import (
    Windows,
    check_options,
    register,
    set_attention,
)
from flaxen.bridges.torch.bridge import first_line

_PROBE = "flaxen_probe"  # the probe's name in the registries of transformers
_NUM_TOKENS = 8  # of that run; masks are examined far beyond these
_FULL = 64  # tokens: how far to search for a window that no argument of the mask names
_FAR = 2**17  # a position at which every mask is examined


@dataclass(kw_only=True)
class _Probe:
    """Collects the masks that a class makes while it runs."""

    name: str  # the class's name
    masks: list[tuple[torch.Tensor, int | None]] = field(default_factory=list)
    windows: dict[torch.nn.Module, int | None] = field(default_factory=dict)
    num_calls: int = 0

    def mask(self, **arguments: Any) -> torch.Tensor:
        """Replaces a mask function of transformers: returns its mask, and records the window."""
        window = _window(self.name, arguments)
        tensor = sdpa_mask(**{**arguments, "allow_is_causal_skip": False})
        assert tensor is not None
        self.masks.append((tensor, window))
        return tensor

    def attention(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Replaces an attention function: records the window of its mask, and computes nothing."""
        kind = type(module).__name__
        self.num_calls += 1
        if attention_mask is None:
            if options.get("is_causal") is False or not getattr(module, "is_causal", True):
                raise _not_causal(kind)
            window = None
        else:
            found = [window for tensor, window in self.masks if tensor is attention_mask]
            if not found:
                raise ValueError(
                    f"{kind}'s attention comes with a mask of its own: that is not supported"
                )
            window = found[0]
        if self.windows.setdefault(module, window) != window:
            raise ValueError(
                f"{kind} is called with windows of {self.windows[module]} and of {window} tokens: "
                "one module with two kinds of mask is not supported"
            )
        check_options(kind, options)
        shape = (query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
        return query.new_zeros(shape), None


def find_windows(module: transformers.PreTrainedModel, name: str) -> Windows:
    """Finds the window of each module that calls attention, by running the class once.

    Args:
      module: the model, on the CPU. Afterwards its attention is the probe's.
      name: the class's name, for messages.

    Raises:
      ValueError: a mask is neither causal nor a window, attention has an option that ours lacks, or
          some layers do not call attention.
    """
    probe = _Probe(name=name)
    register(_PROBE, probe.attention, probe.mask)
    set_attention(module, _PROBE)
    tokens = torch.arange(1, _NUM_TOKENS + 1)[None] % module.config.get_text_config().vocab_size
    positions = torch.arange(_NUM_TOKENS)[None]
    failed: Exception | None = None
    try:
        with torch.no_grad():
            module(input_ids=tokens, position_ids=positions, use_cache=False)
    except ValueError:  # its message says what is not supported
        raise
    except Exception as error:  # the class's own code may raise anything
        failed = error
    num_layers = module.config.get_text_config().num_hidden_layers
    if probe.num_calls == 0 or (failed is None and probe.num_calls < num_layers):
        raise ValueError(
            f"{probe.name} has {num_layers} layers, and {probe.num_calls} of them call "
            "transformers' registry of attention functions: the others have caches of their own, "
            "and can't be served" + (f" ({first_line(failed)})" if failed else "")
        ) from failed
    if failed is not None:
        raise ValueError(f"{probe.name} can't be run: {first_line(failed)}") from failed
    return probe.windows


def _window(name: str, arguments: Mapping[str, Any]) -> int | None:
    """How many tokens a causal mask shows to each token, itself included; None for all."""
    padding = arguments.get("attention_mask")
    if padding is not None and not bool(padding.all()):
        raise ValueError(f"{name} has a mask of its own: only a causal mask can be served")
    size = arguments.get("local_size") or _FULL
    places = {0, 1, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 3, 3 * size + 1}
    seen: dict[int, int] = {}
    try:
        for place in sorted({*places, _FAR}):
            row = _mask(arguments, place, 1, place + 3)[0]
            seen[place] = (
                place + 1 - int(row.to(torch.int8).argmax())
            )  # counted from the first visible token
            if bool(row[place + 1 :].any()):
                raise _not_causal(name)
            if int(row.sum()) != seen[place]:
                raise _other_mask(name)
    except (
        IndexError
    ):  # the mask looks up facts about each token, such as whether it is part of an image
        return _window_of_text(name, arguments)
    window = seen[max(seen)]
    if any(count != min(place + 1, window) for place, count in seen.items()):
        raise _other_mask(name)
    return None if window == max(seen) + 1 else window


def _window_of_text(name: str, arguments: Mapping[str, Any]) -> int | None:
    """The same for a mask that only knows the tokens of the run, which are all text."""
    window: int | None = arguments.get("local_size")
    length = arguments["q_length"]
    found = _mask(arguments, 0, length, length)
    places = torch.arange(length)
    distance = places[:, None] - places
    if not torch.equal(found, (distance >= 0) & (distance < (window or length))):
        raise ValueError(
            f"{name}'s mask depends on the tokens, and not only on their positions: only a causal "
            "mask, perhaps with a sliding window, can be served"
        )
    return window


def _mask(
    arguments: Mapping[str, Any], start: int, num_queries: int, num_keys: int
) -> torch.Tensor:
    """The mask [queries, keys] for queries from a position on."""
    mask = sdpa_mask(
        batch_size=1,
        q_length=num_queries,
        kv_length=num_keys,
        q_offset=start,
        mask_function=arguments["mask_function"],
        use_vmap=arguments.get("use_vmap", False),
        allow_is_causal_skip=False,
    )
    assert mask is not None
    found: torch.Tensor = mask[0, 0]
    return found


def _not_causal(name: str) -> ValueError:
    return ValueError(
        f"{name} is not causal: its tokens see later ones, as an encoder's do, and only causal "
        "attention can be served"
    )


def _other_mask(name: str) -> ValueError:
    return ValueError(
        f"{name}'s mask is neither causal nor a sliding window (attention in chunks, for one): "
        "that is not supported"
    )
