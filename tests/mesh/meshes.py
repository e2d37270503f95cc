"""The tiny model and its engines on meshes of virtual CPU devices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.models.layout import param_shardings
from flaxen.models.model import Model, Params
from flaxen.models.pipeline import pipelined
from flaxen.models.staging import stage_params
from flaxen.scheduling.config import EngineConfig
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import parse_mesh
from tests.engine.fakes import spelled
from tests.engine.tiny import EOS_ID, MODEL, ONE_SHAPE, PARAMS, make_engine


def placement(text: str) -> Placement:
    """A mesh such as tensor=2 over the first of the virtual devices."""
    return Placement(make_mesh(parse_mesh(text)))


def on_mesh(text: str, model: Model = MODEL) -> Model:
    return pipelined(model.on(Backend.REFERENCE, placement(text)))


def placed(params: Params, placement: Placement, model: Model = MODEL) -> Params:
    """The parameters of one tree a layer, laid over a mesh."""
    laid = jax.device_put(params, param_shardings(model.param_specs, placement))
    return stage_params(laid, placement)


def mesh_executor(
    text: str, config: EngineConfig = ONE_SHAPE, params: Params = PARAMS, model: Model = MODEL
) -> JaxExecutor:
    return executor_on(placement(text), config, params, model)


def executor_on(
    placement: Placement,
    config: EngineConfig = ONE_SHAPE,
    params: Params = PARAMS,
    model: Model = MODEL,
) -> JaxExecutor:
    return JaxExecutor(
        pipelined(model.on(Backend.REFERENCE, placement)),
        placed(params, placement, model),
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )


def mesh_engine(text: str, config: EngineConfig = ONE_SHAPE, **kwargs: Any) -> Engine:
    return make_engine(config, executor=mesh_executor(text, config), **kwargs)
