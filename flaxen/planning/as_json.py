"""A plan as JSON: bytes, seconds and operations as numbers, with every figure of the table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flaxen.planning.memory import Memory
from flaxen.planning.plan import Plan
from flaxen.planning.roofline import Times
from flaxen.planning.serving import ServingPlan, StepPlan
from flaxen.planning.training import TrainingPlan


def json_of(plan: Plan) -> dict[str, Any]:
    """The whole plan."""
    return {
        "model": plan.model,
        "num_params": plan.num_params,
        "dtype": plan.dtype,
        "quantization": plan.quantization,
        "target": plan.hardware.name,
        "num_devices": plan.hardware.num_devices,
        "device": plan.hardware.chip._asdict(),
        "mesh": plan.mesh.sizes(),
        "fits": plan.fits,
        "why_not_compiled": plan.why_not_compiled,
        "serving": None if plan.serving is None else _serving(plan.serving),
        "training": None if plan.training is None else _training(plan.training),
    }


def _serving(serving: ServingPlan) -> dict[str, Any]:
    sizes = {name: value for name, value in vars(serving).items() if name != "config"}
    return {
        "fits": serving.fits,
        **sizes,
        "memory": _memory(serving.memory),
        "decode": None if serving.decode is None else _step(serving.decode),
        "prefill": None if serving.prefill is None else _step(serving.prefill),
    }


def _training(training: TrainingPlan) -> dict[str, Any]:
    return {
        "fits": training.fits,
        "refusal": training.refusal,
        **asdict(training.args),
        "memory": _memory(training.memory),
        "work": asdict(training.work),
        "times": _times(training.times),
        "tokens_per_s": training.tokens_per_s,
        "compiled": [asdict(each) for each in training.compiled],
    }


def _memory(memory: Memory) -> dict[str, Any]:
    return {
        "hbm_bytes": memory.hbm_bytes,
        "parts": dict(memory.parts),
        "used_bytes": memory.used_bytes,
        "missing_bytes": memory.missing_bytes,
    }


def _step(step: StepPlan) -> dict[str, Any]:
    return {**asdict(step), "times": _times(step.times)}


def _times(times: Times) -> dict[str, Any]:
    return {**asdict(times), "least_s": times.least_s, "limit": times.limit}
