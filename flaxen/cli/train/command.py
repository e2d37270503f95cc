"""`flaxen train`: trains a model or adapters, as configured by a YAML file and flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flaxen.cli.cpu import announce, backend_name
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.progress import show_progress
from flaxen.cli.train.options import RunOptions, SettingOptions
from flaxen.runs.display import describe_data, show_training

if TYPE_CHECKING:
    from flaxen.runs.opening import OpenedRun


def train(
    settings: SettingOptions,
    options: RunOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    config_or_model: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG.yaml|MODEL",
            help="File of the run's settings, or the model to train by flags alone.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a model or adapters. Flags override the file."""
    config, model = told_apart(config_or_model, settings.model)
    found = gather(config, settings.named() | {"model": model}, options.settings)

    from flaxen.runs.opening import open_run
    from flaxen.training.settings import make_config

    wanted = make_config(found)
    if wanted.output_dir is None:
        raise ValueError("the setting output_dir is missing: give --output-dir DIR")
    cpu = machine.set_up()
    console = Console(stderr=True)
    with show_progress(console) as on_progress:
        opened = open_run(
            wanted,
            None,
            backend=backend_name(),
            resume=options.resume,
            places=find_places(models, machine),
            on_progress=on_progress,
        )
    announce(cpu)
    print(_run(opened, wanted.output_dir, options.peak_flops, console))


def _run(opened: OpenedRun, output_dir: Path, peak_flops: float | None, console: Console) -> str:
    from flaxen.runs.run import describe_end, run

    console.print(opened.plan, soft_wrap=True, highlight=False, markup=False)
    if data_said := describe_data(opened.batches.report()):
        console.print(data_said, soft_wrap=True, highlight=False, markup=False)
    with show_training(console, opened.num_steps) as on_record:
        finished = run(opened, peak_flops=peak_flops, on_record=on_record)
    return describe_end(opened, finished, output_dir)


def told_apart(given: str | None, model: str | None) -> tuple[Path | None, str | None]:
    """Decides whether the argument is a settings file or a model.

    A settings file has the suffix .yaml or .yml, or is a file that is not a model.

    Args:
      given: the argument.
      model: the flag --model.

    Raises:
      ValueError: both name a model.
    """
    if given is None:
        return None, model
    path = Path(os.path.expanduser(given))
    is_model_file = path.suffix in (".gguf", ".py")
    if path.suffix in (".yaml", ".yml") or (path.is_file() and not is_model_file):
        return path, model
    if model is not None:
        raise ValueError(
            f"{given} and --model {model} both name a model: give one of them. A file of settings "
            "is called something.yaml"
        )
    return None, given


def gather(config: Path | None, flags: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The settings of a file, overridden by those of flags.

    Args:
      config: a YAML file, or None.
      flags: values by dotted names; None means not given.
      settings: NAME=VALUE, with the value in YAML.

    Raises:
      ValueError: the file or a setting can't be read.
      OSError: the file can't be read.
    """
    from flaxen.training.settings import parse_yaml, read_yaml, set_value

    found = {} if config is None else read_yaml(config)
    for name, value in flags.items():
        if value is not None:
            set_value(found, name, value)
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name:
            raise ValueError(f"--set {setting} must be NAME=VALUE, as --set optimizer.name=lion")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ValueError(f"--set {setting}: the value is {error}") from None
        set_value(found, name, value)
    return found
