"""The model of a training run, in files or a definition: opening, loading, and writing it.

Deliberately does not know: data, the run itself.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.build import OnProgress
from flaxen.definitions.definition import Definition
from flaxen.definitions.files import is_definition, save_definition
from flaxen.definitions.opening import open_model
from flaxen.engine_args import compute_dtype
from flaxen.families import Family
from flaxen.hub.places import Places
from flaxen.hub.resolve import resolve
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models.adapters import LORA_TARGETS
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.layout import param_shardings
from flaxen.models.model import Model, Params
from flaxen.models.staging import stack_layers, stage_params
from flaxen.sharding.shape import MeshShape
from flaxen.text.given_template import with_template
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.config import TrainConfig
from flaxen.training.full import initial_params
from flaxen.training.layout import over
from flaxen.training.lora import initial_adapters
from flaxen.training.state import TrainState
from flaxen.weights.adapters.adapter import from_stack
from flaxen.weights.adapters.base import base_reference
from flaxen.weights.adapters.modules import file_targets
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.huggingface.config import read_config
from flaxen.weights.huggingface.export import export_huggingface
from flaxen.weights.reference import parse_reference


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that can be trained."""

    name: str
    model: Model
    tokenizer: Tokenizer
    # The source of the parameters; None if there is only a configuration.
    source: Checkpoint | Definition | None
    path: Path | None  # of a model in files
    family: Family | None  # the same
    config: DecoderConfig | None  # the same


class Loaded(NamedTuple):
    """The parameters of a run."""

    masters: Params  # the trained float32 parameters
    frozen: Params  # None if everything is trained
    collections: Any  # the collections of a definition that are not trained; None without any


def open_subject(
    config: TrainConfig,
    definition: Definition | str | None,
    *,
    backend: str,
    mesh: MeshShape,
    places: Places,
) -> Subject:
    """Finds and opens the model to train.

    Args:
      config: the run.
      definition: the model, if it is a definition; or the code of config.model, FILE.py:NAME, if
        that is a definition's directory; None finds all in files.
      backend: what computes, as EngineArgs.backend.
      mesh: the devices that it is divided over.
      places: where config.model is looked for.

    Raises:
      ValueError: the model does not exist, can't be trained in this way, or can't be divided so;
        or the mesh needs more devices than there are.
    """
    chosen = choose_backend(backend, num_devices=mesh.num_devices)
    subject = _open_subject(config, definition, chosen, places)
    return dataclasses.replace(subject, model=over(subject.model, chosen, mesh))


def _open_subject(
    config: TrainConfig, definition: Definition | str | None, chosen: Backend, places: Places
) -> Subject:
    """The model on one device."""
    name = config.model
    is_in_files = not isinstance(definition, Definition) and parse_reference(name) is None
    if config.from_scratch and is_in_files:
        subject = _without_weights(resolve(name, places), chosen)
        if subject is not None:
            return subject
    path: Path | None = None
    if isinstance(definition, Definition):
        source: Checkpoint | Definition = definition
    else:
        opened = open_model(name, places, backend=chosen, definition=definition)
        path, source = opened.path, opened.generator
    if isinstance(source, Definition) and path is not None:
        _check_directory(config, path)
    return _of_source(source, path, chosen)


def _without_weights(path: Path, backend: Backend) -> Subject | None:
    """The model of a directory that holds a configuration, and no weights; None of any other."""
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    family, decoder_config = read_config(path / "config.json")
    return Subject(
        name=path.name,
        model=decoder(decoder_config).on(backend),
        tokenizer=Tokenizer.from_directory(path),
        source=None,
        path=path,
        family=family,
        config=decoder_config,
    )


def _check_directory(config: TrainConfig, path: Path) -> None:
    """Refuses what can't be done with a definition that was opened from a directory."""
    if config.from_scratch:
        raise ValueError(
            f"{config.model} holds parameters that were trained. From scratch a definition begins "
            "with those that its code makes: give the code as the model, FILE.py:NAME"
        )
    if not is_definition(path) and config.method == "full":
        raise ValueError(
            f"{config.model} runs through transformers' own class, of which flaxen train trains "
            "adapters only: use method lora, or train it in Python by flaxen.from_transformers"
        )


def _of_source(source: Checkpoint | Definition, path: Path | None, backend: Backend) -> Subject:
    return Subject(
        name=source.name,
        model=source.model.on(backend),
        tokenizer=source.make_tokenizer(),
        source=source,
        path=path,
        family=source.family if isinstance(source, Checkpoint) else None,
        config=source.config if isinstance(source, Checkpoint) else None,
    )


def with_targets(config: TrainConfig, model: Model) -> TrainConfig:
    """Replaces default targets by all that the model has, and that files can hold."""
    if config.method == "full" or config.lora.targets != LORA_TARGETS:
        return config
    lora = dataclasses.replace(config.lora, targets=file_targets(model))
    return dataclasses.replace(config, lora=lora)


def dtype_of(config: TrainConfig, subject: Subject) -> jnp.dtype:
    """The dtype of the run; "auto" is the dtype in which the model is served."""
    return compute_dtype(config.dtype, subject.model.backend, subject.source)


def load(
    config: TrainConfig, subject: Subject, dtype: jnp.dtype, on_progress: OnProgress
) -> Loaded:
    """Loads the master parameters and the frozen parameters."""
    report = functools.partial(on_progress, "weights")
    model = subject.model
    if config.from_scratch and not isinstance(subject.source, Definition):
        return Loaded(_initial_params(model, config.seed), None, None)
    assert subject.source is not None
    if config.method == "full":
        params = subject.source.load_params(jnp.dtype("float32"), report, placement=model.placement)
        params = stage_params(params, model.placement)
        name = model.trained
        if name is None:
            return Loaded(_own(subject, params), None, None)
        rest = {each: tree for each, tree in params.items() if each != name}
        return Loaded(_own(subject, params[name]), None, rest)
    frozen = subject.source.load_params(
        dtype,
        report,
        backend=model.backend,
        quantization=config.lora.base_quantization,
        placement=model.placement,
    )
    frozen = stage_params(frozen, model.placement)
    seeds = config.lora.seeds or (config.seed,) * config.lora.num_adapters
    return Loaded(initial_adapters(model, config.lora.to_lora(), seeds), frozen, None)


def _initial_params(model: Model, seed: int) -> Params:
    """Random parameters; on a mesh each device makes its own part."""
    whole = model.unstaged or model

    def make() -> Params:
        params = initial_params(whole, seed)
        if not model.has_layers:
            return params
        return {**params, "layers": stack_layers(params["layers"], len(model.cache_specs))}

    if model.placement is None:
        return make()
    return jax.jit(make, out_shardings=param_shardings(model.param_specs, model.placement))()


def _own(subject: Subject, masters: Params) -> Params:
    """Copies arrays if training may not donate them: a definition keeps its own."""
    return jax.tree.map(jnp.copy, masters) if isinstance(subject.source, Definition) else masters


def write_results(
    config: TrainConfig, subject: Subject, state: TrainState, dtype: jnp.dtype, paths: list[Path]
) -> None:
    """Writes the result: adapters, or the whole model.

    A definition has no Hugging Face format: it is written as `definitions.files` says.

    Args:
      config: the run's configuration.
      subject: the trained model.
      state: the final state.
      dtype: the dtype of compute.
      paths: one for each adapter, or one for the model.
    """
    if config.method != "full":
        for index, path in enumerate(paths):
            adapter = from_stack(config.lora.to_lora(), state.params, index)
            save_adapter(path, adapter, base_reference(config.model), model=subject.model)
        return
    (path,) = paths
    given = config.data.chat_template
    template = with_template(subject.tokenizer, given).chat_template if given else None
    if isinstance(subject.source, Definition):
        trained = with_params(subject.source, state.params, state.collections)
        save_definition(path, trained, dtype=dtype, chat_template=template)
        return
    assert subject.family is not None
    assert subject.config is not None
    export_huggingface(
        path,
        subject.family,
        subject.config,
        state.params,
        dtype=dtype.name,
        tokenizer_of=subject.path,
        chat_template=template,
    )


def with_params(definition: Definition, trained: Params, collections: Any) -> Definition:
    """The definition with trained parameters.

    Args:
      definition: the definition that was trained.
      trained: its parameters, or those of its trained collection.
      collections: the other collections by name; None without any.
    """
    name = definition.model.trained
    params = trained if name is None else {**collections, name: trained}
    return dataclasses.replace(definition, params=params)


def next_command(config: TrainConfig, subject: Subject, path: Path) -> str:
    """The command that tries a result."""
    has_template = subject.tokenizer.chat_template or config.data.chat_template
    command = "flaxen chat" if has_template else 'flaxen generate -p "..."'
    is_code = parse_reference(config.model) is not None
    if config.method != "full" and is_code:  # which is not run because an adapter names it
        return f"{command} {config.model} --adapter {path}"
    return f"{command} {path}"
