"""The option group of several models, and which other options belong to a single one.

Imports the engine only when it is needed, so that --help is fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from flaxen.cli.groups import option
from flaxen.cli.options import ChatTemplateOptions, MeshOptions, ModelOptions
from flaxen.cli.processes import ProcessOptions
from flaxen.cli.serve.adapters import LoraOptions, serve_adapter
from flaxen.cli.serve.given import Given
from flaxen.cli.serve.named_models import NamedModel
from flaxen.cli.serve.options import ServerOptions
from flaxen.cli.serve.speculation_options import SpeculationOptions
from flaxen.cli.sizes import parse_size_option
from flaxen.serving.load_at_start import LoadAtStart

if TYPE_CHECKING:
    from flaxen.serving.planned_models import Wanted

_option = partial(option, rich_help_panel="Several models")


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """The memory of several models, and when they are loaded."""

    models_memory: int | None = _option(
        None,
        parser=parse_size_option,
        metavar="SIZE",
        help="Memory for weights and KV caches of the models that are loaded at the same time, "
        "as 24GiB. The least recently used one is unloaded for another.",
        show_default="four fifths of the free memory; on a GPU or TPU what "
        "--gpu-memory-utilization leaves beside steps",
    )
    load_at_start: LoadAtStart | None = _option(
        None,
        help="Which of several models to load before the server answers; the others are loaded "
        "when a request first names them.",
        show_default="first",
    )

    @property
    def at_start(self) -> LoadAtStart:
        """Which models to load before the server answers."""
        return self.load_at_start or LoadAtStart.FIRST

    def check(self, num_models: int) -> None:
        """Refuses what has no effect.

        Raises:
          ValueError: --load-at-start was given for a single model.
        """
        if num_models == 1 and self.load_at_start is not None:
            raise ValueError(
                "--load-at-start is for several models, and a single one is always loaded at the "
                "start: leave it out, or give more models"
            )


def refuse_for_several(
    server: ServerOptions,
    model_options: ModelOptions,
    template: ChatTemplateOptions,
    speculation: SpeculationOptions,
    mesh: MeshOptions,
    processes: ProcessOptions,
) -> None:
    """Refuses options that belong to a single model, and engines on several devices.

    Raises:
      ValueError: one of them was given.
    """
    reason = None
    if server.dev_mode:
        reason = "--server-dev-mode changes one model"
    elif server.any_model_name:
        reason = "--skip-model-name-validation can't tell which of the models is meant"
    elif template.chat_template is not None:
        reason = "--chat-template belongs to one model"
    elif speculation.joined().speculative_config is not None:
        reason = "--speculative-config belongs to one model"
    elif model_options.definition is not None:
        reason = "--definition belongs to one model"
    elif mesh.num_devices > 1:
        reason = "models that are divided over several devices can't take turns in one server yet"
    elif processes.coordinator_address is not None:
        reason = "--coordinator-address divides one model over several processes"
    if reason is not None:
        raise ValueError(f"{reason}: leave it out, or start a server for each model")


def divide_adapters(
    lora: LoraOptions, names: list[tuple[str, ...]], *, has_jobs: bool
) -> list[LoraOptions]:
    """The options of adapters for each model.

    Adapters of --lora-modules belong to the model that they name. Those that clients load, and
    those that jobs make, are the first model's, which stays in memory for them.

    Args:
      lora: as the user gave them.
      names: of each model.
      has_jobs: whether clients may fine-tune.

    Raises:
      ValueError: a module names no model, or adapters are enabled for none.
    """
    modules: dict[int, list[str]] = {index: [] for index in range(len(names))}
    for module in lora.lora_modules:
        base, colon, rest = module.partition(":")
        found = [index for index in modules if colon and base in names[index]]
        if not found:
            known = ", ".join(each[0] for each in names)
            raise ValueError(
                f"--lora-modules {module} does not say which of the models it belongs to: give it "
                f"as BASE:NAME=DIR, where BASE is one of {known}"
            )
        modules[found[0]].append(rest)
    of_first = has_jobs or lora.allow_runtime_lora_updating
    if lora.enable_lora and not lora.lora_modules and not of_first:
        raise ValueError(
            "--enable-lora does not say for which of several models: give --lora-modules "
            "BASE:NAME=DIR, or --allow-runtime-lora-updating for the first one"
        )
    return [
        replace(
            lora,
            lora_modules=modules[index],
            enable_lora=bool(modules[index]) or (index == 0 and of_first),
            allow_runtime_lora_updating=index == 0 and lora.allow_runtime_lora_updating,
            lora_dir=lora.lora_dir if index == 0 else None,
            max_cpu_loras=lora.max_cpu_loras if modules[index] or index == 0 else None,
        )
        for index in modules
    ]


def want_models(named: Sequence[NamedModel], given: Given, pool: PoolOptions) -> list[Wanted]:
    """The models to serve, each with its adapters, or as the base model of an adapter.

    Raises:
      ValueError: an option of adapters can't be served, or contradicts --load-at-start.
    """
    from flaxen.serving.planned_models import Wanted

    has_jobs = given.fine_tuning.data_dir is not None
    stays = has_jobs or given.lora.allow_runtime_lora_updating
    if stays and pool.at_start is LoadAtStart.NONE:
        raise ValueError(
            f"--load-at-start none and {'--data-dir' if has_jobs else '--lora-dir'} contradict "
            "each other: adapters that clients make or load are the first model's, which stays in "
            "memory for them. Leave --load-at-start out"
        )
    given.lora.check()
    divided = divide_adapters(
        given.lora, [each.names or (each.model,) for each in named], has_jobs=has_jobs
    )
    wanted = []
    for each, own in zip(named, divided, strict=True):
        server = replace(given.server, served_model_names=list(each.names))
        model, server, lora = serve_adapter(each.model, server, own, given.places)
        names = tuple(server.served_model_names)
        wanted.append(Wanted(args=given.make_args(model), names=names, adapters=lora.served()))
    return wanted
