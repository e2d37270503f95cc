"""`flaxen.from_torch` turns a PyTorch module into a Model and its parameters, through torchax.

torchax runs the module once for each shape to trace it. Deliberately does not know how the Model is
run, or files.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import torch

from flaxen.bridges.check import check_served
from flaxen.bridges.function import from_apply
from flaxen.bridges.sharding import Axes, ShardingRule
from flaxen.bridges.signature import POSITIONS, keywords
from flaxen.bridges.torch.torchax_import import import_torchax
from flaxen.kernels.choice import AUTO
from flaxen.models.model import Model, Params

# How the module is called: (module, tokens [B, T], positions [B, T]) -> logits [B, T, V]
Call = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]

_PARAMS, _BUFFERS = "params", "buffers"

_LINE = 200  # the most characters of an error that a message repeats

# A trace puts arrays into the module and sets its mode; trainer and server may share a module.
_TRACING = threading.Lock()


def from_torch(
    module: torch.nn.Module,
    *,
    max_position: int,
    call: Call | None = None,
    checks: bool = True,
    windows: Sequence[int] = (),
    axes: Mapping[str, Axes] = MappingProxyType({}),
    sharding: Sequence[ShardingRule] = (),
    backend: str = AUTO,
) -> tuple[Model, Params]:
    """Turns a module into a Model and its parameters, for an engine, a trainer, or plain JAX.

    The module takes tokens [B, T] and, if it uses them, positions [B, T], and returns logits
    [B, T, V]. It must call `attend_torch` for attention; torch's own scaled_dot_product_attention
    is refused.

    In training it is traced as after `module.train()`, and random numbers come from the run's key.
    Batch statistics are never updated.

    Args:
      module: the definition with its weights, on the CPU. It is set to evaluation mode.
      max_position: the most tokens of a sequence.
      call: how the module is called; None passes the tokens, and positions where its forward
          takes them.
      checks: whether to compare the Model with the module in PyTorch, which takes a forward of 16
          tokens, or of more than a window.
      windows: windows that its attention may have without passing them to `attend_torch`.
      axes: the names of the axes of parameters, by PyTorch's names; others are not divided.
      sharding: how parameters are divided over a mesh, as in `from_function`, by PyTorch's names;
          it goes before `axes`.
      backend: what the Model is made for and checked on, as EngineArgs.backend.

    Returns:
      The Model, and {"params": {name: array}, "buffers": {name: array}} by PyTorch's names.

    Raises:
      ImportError: torchax is not installed.
      ValueError: the module can't be served, for the reasons listed at `from_nnx`.
    """
    env = import_torchax().default_env()
    params: Params = {
        _PARAMS: {name: to_jax(each) for name, each in module.named_parameters()},
        _BUFFERS: {name: to_jax(each) for name, each in module.named_buffers()},
    }
    module.eval()
    call = call or call_forward
    model = from_apply(
        functools.partial(_apply, env, _Called(module, call), _tied(module)),
        params,
        max_position=max_position,
        axes={
            kind: {name: axes.get(name, (None,) * each.ndim) for name, each in tree.items()}
            for kind, tree in params.items()
        },
        sharding=sharding,
        trained=_PARAMS,
        trains_apart=True,
        backend=backend,
    )
    if checks:
        check_served(
            model,
            params,
            lambda _, *tokens_and_positions: _by_itself(module, call, *tokens_and_positions),
            name=type(module).__name__,
            has_own_weights=True,
            windows=windows,
        )
    return model, params


def _tied(module: torch.nn.Module) -> dict[str, str]:
    """The other names of parameters that have several, and the first name of each."""
    first: dict[int, str] = {id(each): name for name, each in module.named_parameters()}
    return {
        name: first[id(each)]
        for name, each in module.named_parameters(remove_duplicate=False)
        if name != first[id(each)]
    }


def call_forward(module: torch.nn.Module, tokens: Any, positions: Any) -> Any:
    """Calls a module with the arguments that its forward takes.

    Positions are passed by their usual names, or else as a second argument that is required.

    Raises:
      ValueError: the forward requires another argument.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    # A wrapper such as torch.compile's takes *args: what is behind it isn't seen.
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return module(tokens, positions)
    second = parameters[1] if len(parameters) > 1 else None
    if second is not None and second.default is second.empty and second.name not in POSITIONS:
        return module(tokens, positions)
    return module(tokens, **keywords(module.forward, positions, trains=module.training))


def update_torch(module: torch.nn.Module, params: Params) -> None:
    """Copies values into a module's parameters, in place: tied weights stay tied.

    Parameters keep their dtype and device. Buffers are never trained, and stay as they are.

    Args:
      module: the module that `from_torch` was given, or one with the same parameters.
      params: as `from_torch` returns them.

    Raises:
      ValueError: a parameter has no value, or one of another shape.
    """
    values, kind = params[_PARAMS], type(module).__name__
    for name, own in module.named_parameters():
        if name not in values:
            raise ValueError(
                f"there is no trained value for {name} of {kind}: give the module that was trained"
            )
        if tuple(own.shape) != values[name].shape:
            raise ValueError(
                f"{name} of {kind} has the shape {list(own.shape)}, and its trained value "
                f"{list(values[name].shape)}: give the module that was trained"
            )
    with torch.no_grad():
        for name, own in module.named_parameters():
            own.copy_(_to_torch(values[name]))


def _to_torch(array: jax.Array) -> torch.Tensor:
    """Copies an array to a tensor on the CPU, in the same dtype."""
    if array.dtype == jax.numpy.bfloat16:  # NumPy's has no counterpart in PyTorch
        bits = np.array(array).view(np.int16)
        bfloat16: torch.Tensor = torch.from_numpy(bits).view(torch.bfloat16)
        return bfloat16
    found: torch.Tensor = torch.from_numpy(np.array(array))
    return found


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """Copies a tensor to JAX's default device, in the same dtype."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy().copy()
        bfloat16: jax.Array = jax.device_put(bits.view(jax.numpy.bfloat16))
        return bfloat16
    found: jax.Array = jax.device_put(tensor.numpy().copy())
    return found


def _apply(
    env: Any,
    module: _Called,
    tied: Mapping[str, str],
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    key: jax.Array | None,
) -> Any:
    """The module's logits; with a key those of training, and an empty dict of changes."""
    # PyTorch broadcasts like NumPy, whatever JAX is configured to allow. Its 64-bit integers are
    # ids and indices, for which JAX's 32 bits are enough.
    with (
        _TRACING, jax.numpy_rank_promotion("allow"), warnings.catch_warnings(),
        env, torch.no_grad(), _mode(env, module, key),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        tensors = env.j2t_iso({**params[_PARAMS], **params[_BUFFERS]})
        tensors |= {name: tensors[other] for name, other in tied.items()}
        named = {f"module.{name}": tensor for name, tensor in tensors.items()}
        inputs = env.j2t_iso((tokens, positions))
        logits: jax.Array = env.t2j_iso(_run(module, named, inputs))
    return logits if key is None else (logits, {})


def _run(module: _Called, named: Mapping[str, Any], inputs: Any) -> Any:
    """The module's logits computed by torchax, which lacks some of PyTorch's operations."""
    try:
        return torch.func.functional_call(module, named, inputs, tie_weights=False)
    except ValueError:  # its message says what is not supported
        raise
    except Exception as error:  # the module's own code may raise anything
        raise ValueError(
            f"{type(module.module).__name__} can't be traced by torchax: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """The beginning of a foreign error's message, in one line."""
    words = " ".join(" ".join(str(error).strip().splitlines()[:2]).split())
    kind = type(error).__name__
    return f"{kind}: {words[:_LINE]}" if words else kind


@contextmanager
def _mode(env: Any, module: torch.nn.Module, key: jax.Array | None) -> Iterator[None]:
    """Sets the module's mode: with a key it is in training, and torchax samples with that key."""
    if key is None:
        yield
        return
    module.train()
    for each in module.modules():
        if isinstance(each, torch.nn.modules.batchnorm._NormBase):
            each.eval()
    try:
        with env.override_property(prng=key):
            yield
    finally:
        module.eval()


class _Called(torch.nn.Module):  # type: ignore[misc]
    """Wraps a module with a custom call, because functional_call can only call `forward`."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        torch.nn.Module.__init__(self)
        self.module = module
        self.call = call

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, tokens, positions)


def _by_itself(
    module: torch.nn.Module, call: Call, tokens: jax.Array, positions: jax.Array
) -> jax.Array:
    """Computes the module's logits in PyTorch, on the CPU."""
    with torch.no_grad():
        inputs = (torch.from_numpy(np.array(each, np.int64)) for each in (tokens, positions))
        return to_jax(call(module, *inputs).float())
