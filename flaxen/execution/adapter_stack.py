"""The adapters on the device: one stack, with a slot for each adapter that can run at once.

Deliberately does not know: names, which adapter is in which slot, when a slot is filled.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.adapters import Adapters, LoraConfig, adapter_shapes, lora_targets
from flaxen.models.layout import adapter_shardings
from flaxen.models.model import Model
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.adapter import Adapter, check_adapter


class AdapterStack:
    """The engine's own slots, or a trainer's stack in place of them.

    Every slot has all targets and the maximum rank: what an adapter lacks is zeros, which change
    nothing.

    Args:
      model: the model.
      limits: the number of slots and their rank; None for no slots.
    """

    def __init__(self, model: Model, limits: LoraLimits | None) -> None:
        self._model, self._limits = model, limits
        self._shardings: Any = None  # of the layers and of the scales, on a mesh
        if model.placement is not None:
            layers = adapter_shardings(model, model.placement)
            self._shardings = layers, model.placement.replicated
        self._fill = jax.jit(_fill, donate_argnums=0)
        self._given: tuple[Adapters, jax.Array] | None = None
        self.reset()

    def free(self) -> None:
        """Frees the slots, until `reset`; a trainer's stack stays."""
        self._own: tuple[Adapters, jax.Array] | None = None

    def reset(self) -> None:
        """Makes new, empty slots; a trainer's stack stays."""
        self.free()  # else there would be two for a moment
        limits = self._limits
        if limits is None or self._given is not None:
            return
        empty = functools.partial(_empty, limits.max_loras, self._shapes())
        layers, scales = jax.jit(empty, out_shardings=self._shardings)()
        self._own = {"layers": layers}, scales

    @property
    def arrays(self) -> tuple[Adapters, jax.Array] | None:
        """The stack and its scales [n], for a step with adapters."""
        return self._given or self._own

    def check(self, adapter: Adapter) -> None:
        """Refuses an adapter that does not fit into a slot.

        Raises:
          ValueError: its rank is too large, it belongs to another model, or there are no slots.
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
        served = lora_targets(self._model)
        if experts := [name for name in adapter.config.targets if name not in served]:
            raise ValueError(
                f"the adapter changes {', '.join(experts)}, and adapters of experts are not served "
                "beside their model: merge it (flaxen merge), and serve what that writes"
            )

    def compile_load(self) -> None:
        """Compiles what `load` runs, so that no first adapter waits for it. Slots must be empty."""
        if self._own is not None:
            self.load(0, [{} for _ in self._shapes()], 0.0)

    def load(self, slot: int, new_layers: Sequence[Any], scale: float) -> None:
        """Fills a slot with an adapter's layers in place, after the steps already dispatched."""
        assert self._own is not None, "the engine has no slots of its own"
        stack, scales = self._own
        layers = tuple(
            self._fill(old, slot, _padded(shapes, new))
            for old, shapes, new in zip(stack["layers"], self._shapes(), new_layers, strict=True)
        )
        self._own = {"layers": layers}, self._fill(scales, slot, np.float32(scale))

    def serve_stack(self, stack: Adapters | None, scales: Any) -> int:
        """Serves a trainer's stack [n, ...] without copying it; None goes back to the slots.

        Returns:
          The stack's rank; 0 for None.

        Raises:
          ValueError: the stack does not fit the model, or its size differs from that of the scales
              [n].
        """
        if stack is None:
            self._given, rank = None, 0
        else:
            rank = self._check_stack(stack, scales)
            self._given = stack, scales
        self.reset()
        return rank

    def _check_stack(self, stack: Adapters, scales: jax.Array) -> int:
        targets = tuple(dict.fromkeys(target for layer in stack["layers"] for target in layer))
        rank: int = jax.tree.leaves(stack["layers"])[0].shape[-1]
        (num,) = scales.shape
        expected = [
            {
                target: {part: ((num, *shape), "float32") for part, shape in parts.items()}
                for target, parts in layer.items()
            }
            for layer in adapter_shapes(self._model, LoraConfig(rank=rank, targets=targets))[
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

    def _shapes(self) -> tuple[dict[str, dict[str, tuple[int, ...]]], ...]:
        assert self._limits is not None
        config = LoraConfig(rank=self._limits.max_lora_rank, targets=lora_targets(self._model))
        return adapter_shapes(self._model, config)["layers"]


def _empty(num: int, shapes: Any) -> tuple[Any, jax.Array]:
    layers = tuple(
        {
            target: {part: jnp.zeros((num, *shape)) for part, shape in parts.items()}
            for target, parts in layer.items()
        }
        for layer in shapes
    )
    return layers, jnp.zeros(num)


def _fill(old: Any, slot: jax.Array, new: Any) -> Any:
    return jax.tree.map(lambda each, one: each.at[slot].set(one), old, new)


def _padded(shapes: dict[str, dict[str, tuple[int, ...]]], layer: Any) -> Any:
    """One layer of an adapter, padded to all targets and to the slots' rank, as NumPy arrays."""

    def pad(target: str, part: str, shape: tuple[int, ...]) -> np.ndarray:
        out = np.zeros(shape, np.float32)
        if target in layer:
            found = layer[target][part]
            out[: found.shape[0], : found.shape[1]] = found
        return out

    return {
        target: {part: pad(target, part, shape) for part, shape in parts.items()}
        for target, parts in shapes.items()
    }
