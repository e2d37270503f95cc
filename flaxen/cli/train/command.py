"""`flaxen train`: trains a model or adapters as a YAML file and flags say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flaxen.cli import options
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.progress import show_progress
from flaxen.cli.train.progress import describe_data, show_training

_RUN_PANEL = "Run"
_DATA_PANEL = "Data"


def _option(help: str, panel: str = _RUN_PANEL, **kwargs: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, show_default=False, **kwargs)


def train(
    config_or_model: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG.yaml|MODEL",
            help="The run's settings, or the model to train by flags alone.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, _option(options.MODEL_HELP, options.MODEL_PANEL)] = None,
    data: Annotated[
        list[Path] | None,
        _option(
            "A .jsonl, .txt, .md or .parquet file; may be given several times.",
            _DATA_PANEL,
            metavar="FILE",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        _option("Where checkpoints, metrics and the result are written.", file_okay=False),
    ] = None,
    method: Annotated[
        str | None,
        _option("full (all parameters), lora (an adapter) or dpo (an adapter, by pairs)."),
    ] = None,
    chat_template: Annotated[
        str | None,
        _option(
            "Chat template in place of the model's own: a file, Jinja in one line, or the name of "
            "one of the model's. Serve the result with the same.",
            options.MODEL_PANEL,
            metavar="FILE|JINJA|NAME",
        ),
    ] = None,
    from_scratch: Annotated[
        bool | None,
        typer.Option(
            "--from-scratch/--no-from-scratch",
            help="Begin with random parameters.",
            rich_help_panel=_RUN_PANEL,
            show_default=False,
        ),
    ] = None,
    num_steps: Annotated[
        int | None, _option("Optimizer steps in all, whatever data.epochs says.", min=1)
    ] = None,
    batch_size: Annotated[int | None, _option("Rows in a step.", _DATA_PANEL, min=1)] = None,
    sequence_length: Annotated[int | None, _option("Tokens in a row.", _DATA_PANEL, min=1)] = None,
    num_microbatches: Annotated[
        int | None, _option("Parts of a step's batch; more take less memory.", min=1)
    ] = None,
    learning_rate: Annotated[float | None, _option("The highest of the schedule.")] = None,
    rank: Annotated[int | None, _option("The adapters' rank.", min=1)] = None,
    seed: Annotated[int | None, _option("Of the parameters and of the data's order.")] = None,
    dtype: Annotated[
        str | None, _option("Number format to compute in: float32, bfloat16 or auto.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, as --set optimizer.name=lion; may be given several times.",
            rich_help_panel=_RUN_PANEL,
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last checkpoint, if there is one. What the run depends on must "
            "be the same; more steps or epochs may be asked for.",
        ),
    ] = False,
    peak_flops: Annotated[
        float | None,
        typer.Option(
            help="Floating point operations a second of which MFU is a share.",
            show_default="measured, by float32 products",
            rich_help_panel=_RUN_PANEL,
        ),
    ] = None,
    threads: options.Threads = None,
    compile_cache: options.CompileCache = None,
    offline: options.Offline = False,
) -> None:
    """Train a model or adapters. Flags override the file."""
    config, model = told_apart(config_or_model, model)
    flags = {
        "model": model,
        "data.files": None if data is None else [str(path) for path in data],
        "output_dir": None if output_dir is None else str(output_dir),
        "method": method,
        "data.chat_template": chat_template,
        "from_scratch": from_scratch,
        "num_steps": num_steps,
        "data.batch_size": batch_size,
        "data.sequence_length": sequence_length,
        "num_microbatches": num_microbatches,
        "optimizer.learning_rate": learning_rate,
        "lora.rank": rank,
        "seed": seed,
        "data.seed": seed,
        "dtype": dtype,
    }
    found = gather(config, flags, settings or [])

    from flaxen.build import use_compile_cache
    from flaxen.cli.train.run import open_run, run
    from flaxen.train.settings import make_config

    wanted = make_config(found)
    use_compile_cache(compile_cache or options.default_cache())
    cpu = set_up_cpu(threads)
    console = Console(stderr=True)
    with show_progress(console) as on_progress:
        opened = open_run(wanted, resume=resume, offline=offline, on_progress=on_progress)
    announce(cpu)
    if data_said := describe_data(opened.batches.report()):
        console.print(data_said, soft_wrap=True, highlight=False, markup=False)
    with show_training(console, opened.num_steps) as on_record:
        result = run(opened, peak_flops=peak_flops, on_record=on_record)
    print(result)


def told_apart(given: str | None, model: str | None) -> tuple[Path | None, str | None]:
    """The file of settings and the model, of which the argument is either.

    A file of settings has the suffix .yaml or .yml, or is a file that no model is in.

    Args:
      given: the argument.
      model: of the flag.

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
    """The settings of a file, and those of flags in their place.

    Args:
      config: a YAML file, or None.
      flags: by dotted names; None is not given.
      settings: NAME=VALUE, the value in YAML.

    Raises:
      ValueError: the file or a setting can't be read.
      OSError: the file can't be read.
    """
    from flaxen.train.settings import parse_yaml, read_yaml, set_value

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
