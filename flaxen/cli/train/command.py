"""`flaxen train`: trains a model or adapters, as configured by a YAML file and flags."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flaxen.cli.cpu import announce, backend_name
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.processes import ProcessOptions
from flaxen.cli.progress import show_progress
from flaxen.cli.train.options import RunOptions, SettingOptions
from flaxen.cli.train.signals import end_before_training, stop_after_step
from flaxen.runs.display import describe_data, show_training

if TYPE_CHECKING:
    from flaxen.runs.opening import OpenedRun
    from flaxen.sharding.shape import MeshShape


def train(
    context: typer.Context,
    settings: SettingOptions,
    options: RunOptions,
    processes: ProcessOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [CONFIG.yaml]",
            help="The model to train, and a file of the run's settings; one of them is enough.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a model or adapters. MODEL and flags override the file.

    Ctrl-C saves the state after the current step, and --resume goes on from there.
    """
    config, model = told_apart(arguments or [], settings.model)
    found = gather(config, settings.named() | {"model": model}, options.settings)
    if "model" in found and found.get("output_dir") is None:
        found["output_dir"] = str(default_output_dir(str(found["model"])))

    from flaxen.runs.opening import open_run
    from flaxen.training.settings import make_config, take_mesh

    with contextlib.ExitStack() as stack:
        with end_before_training():
            try:
                rest, mesh = take_mesh(found)
                wanted = make_config(rest)
            except ValueError as error:
                raise ValueError(f"{config}: {error}" if config else str(error)) from None
            assert wanted.output_dir is not None
            console = Console(stderr=True, quiet=processes.start())  # the first one speaks for all
            num_local_devices = processes.num_local_devices(mesh.num_devices)
            cpu = machine.set_up(mesh.num_devices, num_local_devices)
            stack.enter_context(_together(mesh))
            with show_progress(console) as on_progress:
                opened = open_run(
                    wanted,
                    options.definition,
                    backend=backend_name(),
                    mesh=mesh,
                    resume=options.resume,
                    places=find_places(models, machine),
                    on_progress=on_progress,
                )
            if not console.quiet:
                announce(cpu)
        arguments = context.obj.arguments
        code = _run(opened, wanted.output_dir, options.peak_flops, console, arguments)
    raise typer.Exit(code)


@contextlib.contextmanager
def _together(mesh: MeshShape) -> Iterator[None]:
    """In the block, all processes of the mesh end if one of them does."""
    from flaxen.execution.processes.connecting import together
    from flaxen.sharding.processes import check_mesh, this_process

    processes = this_process()
    check_mesh(mesh, processes)
    with together(processes):
        yield


def _run(
    opened: OpenedRun,
    output_dir: Path,
    peak_flops: float | None,
    console: Console,
    arguments: list[str],
) -> int:
    """Trains, and prints the result, or how to go on from where a signal stopped it. Returns the
    exit code.

    Args:
      opened: the run.
      output_dir: its directory.
      peak_flops: the machine's operations a second; None measures them.
      console: for what is not the result.
      arguments: those with which `flaxen` was called.
    """
    from flaxen.runs.describe import (
        describe_end,
        describe_start,
        describe_stop,
        describe_use,
    )
    from flaxen.runs.run import run

    for line in (describe_start(opened), opened.plan, describe_data(opened.batches.report())):
        if line:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    with stop_after_step() as stop, show_training(console, opened.num_steps) as on_record:
        finished = run(opened, peak_flops=peak_flops, on_record=on_record, should_stop=stop)
    num_steps = int(finished.state.step)
    number = _signal(stop.signal, is_stopped=num_steps < opened.num_steps)
    code = 0 if number is None else 128 + number
    if console.quiet:
        return code
    if number is None:
        print(describe_end(opened, finished, output_dir), flush=True)
        print(describe_use(opened, output_dir), file=sys.stderr)
        return code
    said = describe_stop(opened, finished, output_dir)
    if num_steps > 0:
        command = arguments if "--resume" in arguments else [*arguments, "--resume"]
        said += f". Go on from there with: {shlex.join(['flaxen', *command])}"
    print(said, file=sys.stderr)
    return code


def _signal(own: int | None, *, is_stopped: bool) -> int | None:
    """The signal that stopped the run; None if it came to its end. Another process may have got it,
    and then it counts as SIGTERM here.
    """
    from flaxen.sharding.processes import this_process

    if not is_stopped:
        return None
    return signal.SIGTERM if own is None and this_process().count > 1 else own


def default_output_dir(model: str) -> Path:
    """The output directory of a run that names none: runs/, and the model's name."""
    name = re.sub(r"\.py:", "-", model)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", Path(name).name.removesuffix(".gguf"))


def told_apart(given: Sequence[str], model: str | None) -> tuple[Path | None, str | None]:
    """Decides which argument is a settings file, and which a model; their order does not matter.

    A settings file has the suffix .yaml or .yml, or is a file that is not a model.

    Args:
      given: the arguments.
      model: the flag --model.

    Raises:
      ValueError: two of them name a model, or two a file of settings.
    """
    configs = [each for each in given if _is_config(Path(os.path.expanduser(each)))]
    named = [each for each in given if each not in configs]
    if len(configs) > 1:
        raise ValueError(f"{' and '.join(configs)} are both files of settings: give one")
    if model is not None:
        named.append(f"--model {model}")
    if len(named) > 1:
        raise ValueError(
            f"{' and '.join(named)} both name a model: give one of them. A file of settings is "
            "called something.yaml"
        )
    config = Path(os.path.expanduser(configs[0])) if configs else None
    return config, model if model is not None or not named else named[0]


def _is_config(path: Path) -> bool:
    is_model_file = path.suffix in (".gguf", ".py")
    return path.suffix in (".yaml", ".yml") or (path.is_file() and not is_model_file)


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
