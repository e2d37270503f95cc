"""`flaxen.load`: a served model as pure functions over a tree of arrays, and its tokenizer.

Deliberately does not know engines, training, or the use of the model.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp

from flaxen.definitions.definition import Definition
from flaxen.definitions.files import is_definition
from flaxen.definitions.opening import AnySource, open_model
from flaxen.hub.places import Places
from flaxen.hub.resolve import resolve
from flaxen.hub.run_directory import model_in
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import AUTO, choose_backend
from flaxen.models.layout import lay_params
from flaxen.models.model import Model, Params
from flaxen.models.staging import stage_params
from flaxen.sharding.shape import parse_mesh
from flaxen.tensors.packing.pack import Quantization
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.layout import over
from flaxen.weights.adapters.adapter import (
    Adapter,
    check_adapter,
    merge_adapter,
    merge_into_definition,
)
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.reference import parse_reference


def load(
    model: str | Path | Definition,
    *,
    dtype: str = "float32",
    adapter: str | Path | Adapter | None = None,
    definition: Definition | str | None = None,
    device: str = AUTO,
    backend: str = Backend.REFERENCE.value,
    quantization: Quantization = "none",
    mesh: str = "",
    offline: bool = False,
    models_dir: Path | None = None,
) -> tuple[Model, Params]:
    """Loads a model's functions and parameters, the same that the server uses.

        model, params = flaxen.load("smollm2-135m")
        tokens = jnp.asarray([flaxen.load_tokenizer("smollm2-135m").encode("The sky is")])
        logits = flaxen.logits(model, params, tokens)  # float32 [1, T, V]

    jax.grad, jax.vmap and jax.jit work on every backend, and so do derivatives of gradients in both
    modes: jax.grad or jax.jvp of a gradient, jax.hessian. Forward mode of the model itself
    (jax.jvp, jax.jacfwd, with no gradient inside) works on the backend "reference" alone, where XLA
    computes every op: the C++ kernels have gradients of their own. Otherwise JAX says "can't apply
    forward-mode autodiff (jvp) to a custom_vjp function".

    Args:
      model: a named model, a directory, a .gguf file or a Hugging Face repository; a definition, or
        its code as FILE.py:NAME.
      dtype: the dtype of parameters that are not quantized: float32, bfloat16 or, where nothing is
        packed, float16.
      adapter: a PEFT adapter's directory, or the adapter; it is merged into the weights. For
        several adapters, or gradients of adapters, use flaxen.models.adapters.with_adapters.
      definition: of a directory that `flaxen train` wrote for a definition of your own: the
        definition, or FILE.py:NAME; None runs the code that the directory names.
      device: where JAX computes, as EngineArgs.device.
      backend: what computes, as EngineArgs.backend: on "cpu" each matrix is a PackedLinear, for the
        C++ kernels; on the others parameters are plain arrays, and quantized matrices are
        QuantizedLinear.
      quantization: of matrices, as in the server: auto, none, int8, int4, fp8 or mxfp4. auto
        keeps a file's own, except on "reference".
      mesh: the devices that the parameters are laid over, as "tensor=4,fsdp=2"; each device's part
        is read by itself. Functions of the model are then computed by all of them, under jax.jit.
      offline: never ask the Hugging Face hub.
      models_dir: a directory in which `model` is looked for, and put.

    Returns:
      The model, made for the backend and the mesh, and its parameters, a tree like
      `model.param_specs`.

    Raises:
      ValueError: the model or adapter does not exist or is not supported, or there is no such
        device, mesh or backend here.
    """
    shape = parse_mesh(mesh)
    chosen = choose_backend(backend, device, num_devices=shape.num_devices)
    places = Places(offline=offline, models_dir=models_dir)
    opened = _open(model, places, chosen, definition)
    try:
        jax_dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"dtype {dtype!r} is not supported: use float32 or bfloat16") from None
    if isinstance(adapter, str | Path):
        adapter = load_adapter(Path(os.path.expanduser(adapter)), opened.model)
    elif adapter is not None:
        check_adapter(adapter, opened.model)
    if adapter is not None and isinstance(opened, Definition):
        merged = merge_into_definition(opened.model, opened.params, adapter, jax_dtype)
        opened = replace(opened, params=merged)
    made = over(opened.model, chosen, shape)
    placement = made.placement
    params = opened.load_params(
        jax_dtype, backend=chosen, quantization=quantization, placement=placement
    )
    if adapter is not None and isinstance(opened, Checkpoint):
        params = merge_adapter(params, adapter)
        if placement is not None:
            params = lay_params(opened.model.param_specs, params, placement)
    return made, stage_params(params, placement)


def load_tokenizer(
    model: str | Path | Definition, *, offline: bool = False, models_dir: Path | None = None
) -> Tokenizer:
    """Loads a model's tokenizer, whose `encode` and `decode` are those of the server.

    Args:
      model: as in `load`.
      offline: as in `load`.
      models_dir: as in `load`.

    Raises:
      ValueError: the model does not exist, or its tokenizer is damaged or not supported.
      FileNotFoundError: the model has no tokenizer.
    """
    if isinstance(model, Definition):
        return model.make_tokenizer()
    places = Places(offline=offline, models_dir=models_dir)
    if parse_reference(str(model)) is None:
        path = model_in(resolve(str(model), places))
        if is_definition(path):  # its code need not be run
            return Tokenizer.from_directory(path)
    return _open(model, places, Backend.REFERENCE, None).make_tokenizer()


def _open(
    model: str | Path | Definition,
    places: Places,
    backend: Backend,
    definition: Definition | str | None,
) -> AnySource:
    if isinstance(model, Definition):
        return model
    return open_model(str(model), places, backend=backend, definition=definition).source
