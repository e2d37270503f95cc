"""Plans a model on hardware by names: opens its shapes, lays them over a mesh, plans what is asked.

Deliberately does not know argv, nor how a plan is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from flaxen.engine_args import EngineArgs, compute_dtype
from flaxen.models.layout import check_layout
from flaxen.models.model import Model
from flaxen.models.params import is_spec
from flaxen.planning.opening import OpenedShapes, open_shapes
from flaxen.planning.params import param_shapes, requested_layouts
from flaxen.planning.serving import ServingPlan, plan_serving
from flaxen.planning.targets import Hardware, check_mesh, find_hardware
from flaxen.planning.training import TrainingArgs, TrainingPlan, plan_training
from flaxen.sharding.mesh import make_mesh, mesh_without_devices
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import MeshShape, check_serving
from flaxen.sharding.topologies import compile_devices, has_compiler
from flaxen.tensors.packing.layout import Layout
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.form import Form, layout_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned engine, a planned training step, or both."""

    model: str
    num_params: int
    hardware: Hardware
    mesh: MeshShape
    dtype: str
    quantization: str
    serving: ServingPlan | None  # None: the mesh has an axis that only training has
    training: TrainingPlan | None  # None: it was not asked for
    why_not_compiled: str | None  # None: it is compiled

    @property
    def fits(self) -> bool:
        """Whether everything that was planned fits."""
        planned = (self.serving, self.training)
        return all(each.fits for each in planned if each is not None)


def plan(
    args: EngineArgs,
    target: str,
    mesh: MeshShape,
    *,
    train: TrainingArgs | None = None,
    compiles: bool = True,
) -> Plan:
    """Plans serving, training or both.

    Args:
      args: of the engine; its mesh and its device are not read.
      target: the hardware by name, as v6e-8 or h100-8.
      mesh: over all devices of the target.
      train: a training step to plan. If the mesh has an axis of training alone, only that is.
      compiles: whether to compile the steps where that is possible; else all is from shapes.

    Raises:
      ValueError: there is no such model or target, or the model can't be laid out so.
    """
    hardware = find_hardware(target)
    opened = open_shapes(args, hardware.backend)
    model = opened.model
    dtype = compute_dtype(args.dtype, hardware.backend, opened.source)
    check_mesh(mesh, hardware, largest_mesh(model, hardware.num_devices))
    serves = train is None or (mesh.fsdp == 1 and mesh.context == 1)
    if serves:
        check_serving(mesh)
    check_no_stages(mesh)
    reason = why_not_compiled(hardware, compiles)
    is_compiled = reason is None
    serving = training = None
    if serves:
        one = model.on(hardware.backend, _placement(replace(mesh, data=1), hardware, is_compiled))
        params = param_shapes(one, dtype, _layouts(opened, one, args, dtype))
        serving = plan_serving(
            one, params, hardware, args, dtype, num_replicas=mesh.data, compiles=is_compiled
        )
    if train is not None:
        whole = model.on(hardware.backend, _placement(mesh, hardware, is_compiled))
        layouts = _layouts(opened, whole, args, dtype)
        training = plan_training(
            whole, hardware, train, dtype, layouts=layouts, compiles=is_compiled
        )
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    return Plan(
        model=opened.name,
        num_params=sum(math.prod(spec.shape) for spec in specs),
        hardware=hardware,
        mesh=mesh,
        dtype=dtype.name,
        quantization=args.quantization,
        serving=serving,
        training=training,
        why_not_compiled=reason,
    )


def _layouts(
    opened: OpenedShapes, model: Model, args: EngineArgs, dtype: jnp.dtype
) -> list[Layout | None]:
    """The layout of each quantized weight, as it will be loaded."""
    if not isinstance(opened.source, Checkpoint):
        return requested_layouts(model, args.quantization)
    form = Form(dtype=dtype, backend=model.backend, quantization=args.quantization)
    return [layout_of(source, form) for source in opened.source.sources.params]


def largest_mesh(model: Model, num_devices: int) -> MeshShape:
    """The largest tensor axis that the model can be divided over; data takes the other devices."""
    for size in range(num_devices, 0, -1):
        if num_devices % size:
            continue
        mesh = MeshShape(tensor=size, data=num_devices // size)
        try:
            check_layout(model.param_specs, Placement(mesh_without_devices(mesh)))
        except ValueError:
            continue
        return mesh
    raise AssertionError("every model is whole on one device")


def check_no_stages(mesh: MeshShape) -> None:
    """Refuses pipeline stages.

    Raises:
      ValueError: the mesh has several stages.
    """
    if mesh.pipeline > 1:
        raise ValueError(
            "flaxen plan does not plan pipeline stages yet: use the other axes, or plan one stage "
            "as a model with fewer layers"
        )


def _placement(shape: MeshShape, hardware: Hardware, is_compiled: bool) -> Placement:
    """A mesh of devices to compile for, or of none."""
    if not is_compiled:
        return Placement(mesh_without_devices(shape))
    assert hardware.slice is not None
    return Placement(make_mesh(shape, compile_devices(hardware.slice)))


def why_not_compiled(
    hardware: Hardware, compiles: bool, *, is_installed: bool | None = None
) -> str | None:
    """Why a plan is from shapes alone, in words; None if it is compiled.

    Args:
      hardware: the target.
      compiles: whether compiling was asked for.
      is_installed: whether the compiler for TPUs is; None checks.
    """
    if not compiles:
        return "nothing was compiled, as was asked"
    if hardware.slice is None:
        return "nothing is compiled for GPUs here"
    if not (has_compiler() if is_installed is None else is_installed):
        return "the compiler for TPUs is not installed; pip install 'flaxen[tpu]' for its figures"
    return None
