"""The shapes and places of what a training step computes with, to compile it without any arrays.

Deliberately does not know hardware, nor what is compiled with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.data.batch import Batch
from flaxen.models.model import Params
from flaxen.training.layout import check_sizes
from flaxen.training.step import Compute, Sums, TrainStep, init_state


class AbstractStep(NamedTuple):
    """The arguments of a TrainStep's functions, as shapes with their places."""

    masters: Params
    opt_state: Any
    compute: Compute
    frozen: Params
    sums: Sums
    microbatch: Batch
    key: jax.Array
    number: jax.Array  # of the step, and of the microbatch
    denominators: jax.Array

    def lower_accumulate(self, step: TrainStep) -> jax.stages.Lowered:
        """Lowers what one microbatch runs: forward, backward, and the sum of the gradients."""
        accumulate: Any = step.accumulate
        lowered: jax.stages.Lowered = accumulate.lower(
            self.sums,
            self.masters,
            self.compute,
            self.frozen,
            self.microbatch,
            self.key,
            self.number,
            self.number,
            self.denominators,
        )
        return lowered

    def lower_update(self, step: TrainStep) -> jax.stages.Lowered:
        """Lowers the optimizer's update."""
        update: Any = step.update
        lowered: jax.stages.Lowered = update.lower(
            self.masters, self.opt_state, self.sums, self.number, self.denominators
        )
        return lowered


def abstract_step(
    step: TrainStep, masters: Params, frozen: Params, num_rows: int, length: int
) -> AbstractStep:
    """The arguments of a step on a mesh.

    Args:
      step: the step of the run; it has a layout.
      masters: the shapes of the master parameters; where they are does not matter.
      frozen: the shapes and places of the frozen parameters, or None.
      num_rows: of a microbatch.
      length: tokens of a row.

    Raises:
      ValueError: the mesh can't divide the microbatch in equal parts.
    """
    layout = step.trainable.layout
    assert layout is not None, "only a step on a mesh has places"
    placement = layout.placement
    check_sizes(placement.shape, num_rows=num_rows, sequence_length=length)
    masters = _placed(masters, layout.masters)
    compute = masters
    if step.trainable.to_compute is not None:
        compute = _placed(jax.eval_shape(step.trainable.to_compute, masters), layout.masters)
    opt_state = jax.eval_shape(init_state(step), masters)
    sums: Sums = jax.eval_shape(step.zeros, masters)
    rest = placement.replicated

    def everywhere(tree: Any) -> Any:
        return jax.tree.map(
            lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=rest), tree
        )

    rows = placement.sharding(("batch", "length"), (num_rows, length))
    integers = jax.ShapeDtypeStruct((num_rows, length), jnp.int32, sharding=rows)
    weights = jax.ShapeDtypeStruct((num_rows, length), jnp.float32, sharding=rows)
    return AbstractStep(
        masters=masters,
        opt_state=_placed(opt_state, layout.of_state(opt_state, masters)),
        compute=compute,
        frozen=frozen,
        sums=Sums(_placed(sums.gradients, layout.masters), everywhere(sums.values)),
        microbatch=Batch(
            tokens=integers,
            targets=integers,
            loss_weights=weights,
            segment_ids=integers,
            positions=integers,
        ),
        key=everywhere(jax.eval_shape(lambda: jax.random.key(0))),
        number=everywhere(jax.ShapeDtypeStruct((), jnp.int32)),
        denominators=everywhere(jax.ShapeDtypeStruct((step.trainable.num_groups,), jnp.float32)),
    )


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda each, sharding: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding),
        tree,
        shardings,
    )
