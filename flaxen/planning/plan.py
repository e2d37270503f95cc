"""Plans a model on hardware by names: opens its shapes, lays them over a mesh, plans what is asked.

Deliberately does not know argv, nor how a plan is printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax

from flaxen.engine_args import EngineArgs, compute_dtype
from flaxen.models.layout import check_layout
from flaxen.models.model import Model
from flaxen.models.params import is_spec
from flaxen.planning.opening import open_shapes
from flaxen.planning.params import param_shapes
from flaxen.planning.serving import ServingPlan, plan_serving
from flaxen.planning.targets import Hardware, check_mesh, find_hardware
from flaxen.sharding.mesh import make_mesh, mesh_without_devices
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import MeshShape
from flaxen.sharding.topologies import compile_devices, has_compiler


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was planned."""

    model: str
    num_params: int
    hardware: Hardware
    mesh: MeshShape
    dtype: str
    serving: ServingPlan
    why_not_compiled: str | None  # None: it is compiled

    @property
    def fits(self) -> bool:
        """Whether everything that was planned fits."""
        return self.serving.fits


def plan(args: EngineArgs, target: str, mesh: MeshShape, *, compiles: bool = True) -> Plan:
    """Plans serving.

    Args:
      args: of the engine; its mesh and its device are not read.
      target: the hardware by name, as v6e-8 or h100-8.
      mesh: over all devices of the target.
      compiles: whether to compile the steps where that is possible; else all is from shapes.

    Raises:
      ValueError: there is no such model or target, or the model can't be laid out so.
    """
    hardware = find_hardware(target)
    if args.quantization not in ("auto", "none"):
        raise ValueError(
            f"flaxen plan does not know the bytes of {args.quantization} weights yet: use "
            "--quantization none, and count a half of the weights for int8"
        )
    name, model, definition = open_shapes(args, hardware.backend)
    dtype = compute_dtype(args.dtype, hardware.backend, definition)
    check_mesh(mesh, hardware, largest_mesh(model, hardware.num_devices))
    check_serving_mesh(mesh)
    reason = _why_not_compiled(hardware, compiles)
    model = model.on(hardware.backend, _replica(mesh, hardware, compiles=reason is None))
    serving = plan_serving(
        model,
        param_shapes(model.param_specs, model, dtype),
        hardware,
        args,
        dtype,
        num_replicas=mesh.data,
        compiles=reason is None,
    )
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    return Plan(
        model=name,
        num_params=sum(math.prod(spec.shape) for spec in specs),
        hardware=hardware,
        mesh=mesh,
        dtype=dtype.name,
        serving=serving,
        why_not_compiled=reason,
    )


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


def check_serving_mesh(mesh: MeshShape) -> None:
    """Refuses axes over which no engine is planned.

    Raises:
      ValueError: so.
    """
    for axis in ("fsdp", "context"):
        if getattr(mesh, axis) > 1:
            raise ValueError(
                f"the mesh axis {axis} divides training, and an engine has no use for it: use "
                "tensor and data"
            )
    if mesh.pipeline > 1:
        raise ValueError(
            "flaxen plan does not plan pipeline stages: use tensor and data, or plan one stage as "
            "a model of its layers"
        )


def _replica(mesh: MeshShape, hardware: Hardware, *, compiles: bool) -> Placement:
    """The mesh of one data replica: of devices to compile for, or of none."""
    shape = replace(mesh, data=1)
    if not compiles:
        return Placement(mesh_without_devices(shape))
    assert hardware.slice is not None
    return Placement(make_mesh(shape, compile_devices(hardware.slice)))


def _why_not_compiled(hardware: Hardware, compiles: bool) -> str | None:
    """Why the plan is from shapes alone, in words; None if it is compiled."""
    if not compiles:
        return "nothing was compiled, as was asked"
    if hardware.slice is None:
        return "nothing is compiled for GPUs here"
    if not has_compiler():
        return "the compiler for TPUs is not installed (pip install 'flaxen[tpu]')"
    return None
