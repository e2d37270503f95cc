"""What `flaxen.train` returns: the trained parameters or adapters, and what can be done with them.

Deliberately does not know how they were trained.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.update import update_module
from flaxen.definitions.definition import Definition
from flaxen.models.model import Params
from flaxen.runs.model import with_params, write_results
from flaxen.runs.opening import OpenedRun
from flaxen.runs.stages import to_saved
from flaxen.training.metrics import MetricsRecord
from flaxen.training.state import TrainState
from flaxen.weights.adapters.adapter import Adapter, from_stack


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult:
    """A trained model, or the adapters of one.

    `flaxen.LLM(result.definition, adapter=result.adapter)` generates with what any method trained.
    """

    definition: Definition | str  # the model with its trained parameters; with adapters, their base
    # empty where all parameters were trained
    adapters: tuple[Adapter, ...] = field(repr=False)
    # one for each step of this call: step, loss, ...
    metrics: tuple[MetricsRecord, ...] = field(repr=False)
    num_steps: int  # of the whole run, with those before it was resumed
    _opened: OpenedRun = field(repr=False)
    _state: TrainState = field(repr=False)

    @property
    def adapter(self) -> Adapter | None:
        """The trained adapter; None where all parameters were trained.

        Raises:
          ValueError: several were trained at once.
        """
        if len(self.adapters) > 1:
            raise ValueError(
                f"{len(self.adapters)} adapters were trained at once: take one of result.adapters"
            )
        return self.adapters[0] if self.adapters else None

    @property
    def params(self) -> Params:
        """The trained parameters, in the tree and the dtypes of those that `train` was given: the
        variables of a Flax Linen module, the parameters of a function of JAX.

        Raises:
          ValueError: adapters were trained, beside parameters that did not change.
        """
        if isinstance(self.definition, Definition) and not self.adapters:
            return self.definition.params
        raise ValueError(
            f"the method {self._opened.config.method} trains an adapter beside parameters that do "
            "not change: take result.adapter, or train with method='full'"
        )

    def update(self, module: Any) -> None:
        """Puts the trained parameters into the module that was trained, in place.

        Args:
          module: of Flax NNX or PyTorch. Other definitions hold no parameters: give `params` to
            a module of Flax Linen at its calls, or to a function of JAX.

        Raises:
          ValueError: adapters were trained; or the module holds no parameters, or has others.
        """
        update_module(module, self.params)

    def save(self, directory: str | Path) -> None:
        """Writes what was trained, as `flaxen train` does: a model's directory, or an adapter in
        PEFT's format; several adapters in `adapter-0`, `adapter-1`, ... below it.

        Args:
          directory: a new or an empty one.

        Raises:
          ValueError: there are files in the directory.
          OSError: it can't be written.
        """
        opened, path = self._opened, Path(os.path.expanduser(directory))
        if path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path} already holds files: give a new or an empty directory")
        paths = opened.results_in(path) if len(self.adapters) > 1 else [path]
        write_results(opened.config, opened.subject, self._state, opened.dtype, paths)


def make_result(
    opened: OpenedRun, state: TrainState, metrics: tuple[MetricsRecord, ...]
) -> TrainResult:
    """The result of a finished run.

    Args:
      opened: the run.
      state: its last state.
      metrics: the records of its steps.
    """
    config, source = opened.config, opened.subject.source
    if opened.subject.model.placement is not None:
        state = _off_mesh(to_saved(config, opened.subject.model, state))
    adapters: tuple[Adapter, ...] = ()
    if config.method != "full":
        lora = config.lora.to_lora()
        count = config.lora.num_adapters
        adapters = tuple(from_stack(lora, state.params, index) for index in range(count))
        definition = source if isinstance(source, Definition) else config.model
    elif isinstance(source, Definition):
        definition = _with_trained(source, state)
    else:
        definition = _of_files(opened, state)
    return TrainResult(
        definition=definition,
        adapters=adapters,
        metrics=metrics,
        num_steps=int(state.step),
        _opened=opened,
        _state=state,
    )


def _off_mesh(state: TrainState) -> TrainState:
    """The state with what was trained on one device, to compute there with other arrays."""
    trained = jax.device_get((state.params, state.collections))
    params, collections = jax.tree.map(jnp.asarray, trained)
    return state._replace(params=params, collections=collections)


def _with_trained(source: Definition, state: TrainState) -> Definition:
    """The definition with the state's parameters, in the dtypes of its own."""
    trained = with_params(source, state.params, state.collections)
    params = jax.tree.map(lambda own, leaf: leaf.astype(own.dtype), source.params, trained.params)
    return replace(trained, params=params)


def _of_files(opened: OpenedRun, state: TrainState) -> Definition:
    """A model in files with its trained parameters, in the dtype in which it was computed."""
    subject = opened.subject
    return Definition(
        model=(subject.model.unstaged or subject.model).on(subject.model.backend),
        params=jax.tree.map(lambda leaf: jnp.asarray(leaf, opened.dtype), state.params),
        tokenizer=subject.tokenizer,
        name=subject.name,
    )
