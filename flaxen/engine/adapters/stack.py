"""The adapters on the device: one stack with a slot for each that can run at once.

Deliberately does not know: names, who is in which slot, when a slot is filled.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine.config import LoraLimits
from flaxen.models.adapters import Adapters, LoraConfig, adapter_shapes, lora_targets
from flaxen.models.model import Model
from flaxen.weights.adapters.adapter import Adapter, check_adapter


class AdapterStack:
    """The engine's own slots, or in their place a stack that someone else trains.

    Every slot has all targets and the largest rank: what an adapter does not have is zeros, which
    change nothing.

    Args:
      model: the model.
      limits: the slots and their rank; None: there are none.
    """

    def __init__(self, model: Model, limits: LoraLimits | None) -> None:
        self._model, self._limits = model, limits
        self._fill = jax.jit(_fill, donate_argnums=0)
        self._given: tuple[Adapters, jax.Array] | None = None
        self.reset()

    def reset(self) -> None:
        """Makes new, empty slots; a stack that was given stays."""
        self._own: tuple[Adapters, jax.Array] | None = None  # else there would be two for a moment
        limits = self._limits
        if limits is None or self._given is not None:
            return
        num = limits.max_loras
        layers = tuple(
            {
                target: {part: jnp.zeros((num, *shape)) for part, shape in parts.items()}
                for target, parts in layer.items()
            }
            for layer in self._shapes()
        )
        self._own = {"layers": layers}, jnp.zeros(num)

    @property
    def arrays(self) -> tuple[Adapters, jax.Array] | None:
        """The stack and its scales [n], for a step in which some sequence has an adapter."""
        return self._given or self._own

    def check(self, adapter: Adapter) -> None:
        """Refuses an adapter that no slot could hold.

        Raises:
          ValueError: its rank is too large, it is another model's, or there are no slots.
        """
        if self._limits is None:
            raise ValueError(
                "this engine serves no adapters: start it with --enable-lora, or lora=LoraLimits()"
            )
        largest = self._limits.max_lora_rank
        if adapter.config.rank > largest:
            raise ValueError(
                f"the adapter's rank is {adapter.config.rank}, and max_lora_rank is {largest}: "
                "raise it"
            )
        check_adapter(adapter, self._model)

    def load(self, slot: int, adapter: Adapter) -> None:
        """Fills a slot in place, after the steps dispatched before."""
        assert self._own is not None, "the engine has no slots of its own"
        stack, scales = self._own
        layers = tuple(
            self._fill(old, slot, _padded(shapes, new))
            for old, shapes, new in zip(
                stack["layers"], self._shapes(), adapter.layers, strict=True
            )
        )
        scale = np.float32(adapter.config.scale)
        self._own = {"layers": layers}, self._fill(scales, slot, scale)

    def give(self, stack: Adapters | None, scales: Any) -> int:
        """Takes another's stack [n, ...] by reference, in place of the slots; None ends that.

        Returns:
          Its rank; 0 for None.

        Raises:
          ValueError: the stack is not of the model, or has not one adapter for each scale [n].
        """
        if stack is None:
            self._given, rank = None, 0
        else:
            rank = self._check_stack(stack, scales)
            self._given = stack, scales
        self.reset()
        return rank

    def _check_stack(self, stack: Adapters, scales: jax.Array) -> int:
        first = stack["layers"][0]
        rank: int = next(iter(first.values()))["a"].shape[-1]
        (num,) = scales.shape
        expected = [
            {
                target: {part: ((num, *shape), "float32") for part, shape in parts.items()}
                for target, parts in layer.items()
            }
            for layer in adapter_shapes(self._model, LoraConfig(rank=rank, targets=tuple(first)))[
                "layers"
            ]
        ]
        found = [
            jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), layer)
            for layer in stack["layers"]
        ]
        if found != expected:
            raise ValueError(
                f"a stack of {num} adapters of rank {rank} does not fit the model: each array must "
                "be float32 [n, in, rank] or [n, rank, out] of its layer's target"
            )
        return rank

    def _shapes(self) -> tuple[dict[str, dict[str, tuple[int, int]]], ...]:
        assert self._limits is not None
        config = LoraConfig(rank=self._limits.max_lora_rank, targets=lora_targets(self._model))
        return adapter_shapes(self._model, config)["layers"]


def _fill(old: Any, slot: jax.Array, new: Any) -> Any:
    return jax.tree.map(lambda each, one: each.at[slot].set(one), old, new)


def _padded(shapes: dict[str, dict[str, tuple[int, int]]], layer: Any) -> Any:
    """One layer of an adapter with all targets, and with the slots' rank, as NumPy arrays."""

    def pad(target: str, part: str, shape: tuple[int, int]) -> np.ndarray:
        out = np.zeros(shape, np.float32)
        if target in layer:
            found = layer[target][part]
            out[: found.shape[0], : found.shape[1]] = found
        return out

    return {
        target: {part: pad(target, part, shape) for part, shape in parts.items()}
        for target, parts in shapes.items()
    }
