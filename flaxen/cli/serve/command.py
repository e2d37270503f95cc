"""`flaxen serve`: an OpenAI-compatible server for one model or several."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import (
    BatchOptions,
    ChatTemplateOptions,
    ContextOptions,
    MeshOptions,
    ModelOptions,
    RunnerOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.processes import ProcessOptions, follow
from flaxen.cli.sampling import GenerationConfigOptions
from flaxen.cli.serve.adapters import LoraOptions, serve_adapter
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.cli.serve.given import Given, server_config
from flaxen.cli.serve.named_models import ModelsArgument, NamedModel, name_models
from flaxen.cli.serve.options import RequestLimitOptions, ServerOptions, ServingOptions
from flaxen.cli.serve.parser_options import ParserOptions
from flaxen.cli.serve.pool_options import PoolOptions, refuse_for_several, want_models
from flaxen.cli.serve.router_options import RouterOptions
from flaxen.cli.serve.speculation_options import SpeculationOptions
from flaxen.protocol import EngineClosedError
from flaxen.serving.announcement.facts import is_public
from flaxen.serving.logs import LogFormat, logging_to

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs

logger = logging.getLogger("flaxen.server")


def serve(
    model: ModelsArgument,
    server: ServerOptions,
    limits: RequestLimitOptions,
    parsers: ParserOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    batch: BatchOptions,
    mesh: MeshOptions,
    processes: ProcessOptions,
    serving: ServingOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    runner: RunnerOptions,
    template: ChatTemplateOptions,
    defaults: GenerationConfigOptions,
    lora: LoraOptions,
    fine_tuning: FineTuningOptions,
    pool: PoolOptions,
    router: RouterOptions,
    speculation: SpeculationOptions,
) -> None:
    """Serve one model or several over the OpenAI API, until SIGTERM or Ctrl-C.

    /health answers once the weights are read and what requests need is compiled; what only makes
    some of them faster is compiled after that. All of it is kept for the next start. Then open
    http://127.0.0.1:8000/ or try: curl http://127.0.0.1:8000/v1/models
    """
    with logging_to(sys.stderr, server.log_format, server.least_level), _errors(server.log_format):
        # The cheap checks come first: a bad option must not wait for the weights.
        named = name_models(model, server.served_model_names)
        pool.check(len(named))
        parsers.check(len(named))
        processes.check()
        engine_sequences = serving.max_waiting + (steps.max_num_seqs or 0)
        config = server_config(server, limits, parsers, engine_sequences=engine_sequences)
        if fine_tuning.data_dir is not None:  # jobs make adapters
            lora = replace(lora, enable_lora=True)
            processes.refuse("--data-dir", "fine-tuning trains on the weights of one process")
        if server.dev_mode:
            _check_dev_mode(fine_tuning, processes)
        of_engine = (model_options, runner, context, steps, batch, serving, mesh)
        groups = (*of_engine, models, machine, template, defaults, speculation.joined())
        make_args = partial(_engine_args, groups, max_logprobs=limits.max_logprobs)
        given = Given(
            server=server,
            config=config,
            lora=lora,
            fine_tuning=fine_tuning,
            router=router,
            machine=machine,
            places=find_places(models, machine),
            make_args=make_args,
        )
        if len(named) > 1:
            refuse_for_several(server, model_options, template, speculation, mesh, processes)
            code = _serve_several(named, given, pool)
        else:
            code = _serve_one(named[0], given, mesh, processes, pool.models_memory)
    raise typer.Exit(code)


def _engine_args(groups: tuple[Any, ...], model: str, **more: Any) -> EngineArgs:
    return engine_args(model, *groups, **more)


def _serve_one(
    named: NamedModel,
    given: Given,
    mesh: MeshOptions,
    processes: ProcessOptions,
    memory_bytes: int | None,
) -> int:
    """Serves a single model. Returns the exit code."""
    server = replace(given.server, served_model_names=list(named.names))
    model, server, lora = serve_adapter(named.model, server, given.lora, given.places)
    lora.check()
    args = given.make_args(model, memory_bytes=memory_bytes)
    num_devices = mesh.num_devices
    num_local_devices = processes.num_local_devices(num_devices)
    set_up = partial(given.machine.set_up, num_devices, num_local_devices)
    if not processes.process_id:  # the others listen on nothing
        check_address(server)
    if processes.start():
        set_up()
        follow(args, lora.limits())
        return 0
    from flaxen.serving.one import serve_one

    server_args = given.server_args(server.served_model_names, lora.max_lora_rank, set_up)
    return serve_one(args, lora.served(), server_args)


def _serve_several(named: Sequence[NamedModel], given: Given, pool: PoolOptions) -> int:
    """Serves several models. Returns the exit code."""
    check_address(given.server)
    wanted = want_models(named, given, pool)
    from flaxen.serving.several import serve_several

    set_up = partial(given.machine.set_up, 1, None)
    server_args = given.server_args((), given.lora.max_lora_rank, set_up)
    return serve_several(wanted, server_args, memory_bytes=pool.models_memory, which=pool.at_start)


def _check_dev_mode(fine_tuning: FineTuningOptions, processes: ProcessOptions) -> None:
    """Refuses options beside which the weights can be neither freed nor replaced."""
    option = "--server-dev-mode"
    processes.refuse(option, "the weights of several processes can't be replaced yet")
    if fine_tuning.data_dir is not None:
        raise ValueError(
            f"{option} can't be used with --data-dir: jobs train on the weights that it lets "
            "clients free and replace. Leave one of them out"
        )


@contextlib.contextmanager
def _errors(log_format: LogFormat) -> Iterator[None]:
    """Writes an error that ends the command into the log too, where that is JSON."""
    try:
        yield
    except (ValueError, OSError, EngineClosedError) as error:
        if log_format is LogFormat.TEXT:
            raise  # `flaxen` prints it
        logger.critical("%s", error)
        raise typer.Exit(2) from error


def check_address(server: ServerOptions) -> None:
    """Fails at once if nothing can be listened on; warns of an address that anybody may use."""
    from flaxen.server.run import listen, url_of

    with listen(server.host, server.port, server.socket_path) as listener:
        url = url_of(listener)
    if not server.api_keys and is_public(url):
        logger.warning(
            "other machines reach %(host)s, and no API key is asked for: whoever reaches it can "
            "use the server. Give --api-key KEY (or FLAXEN_API_KEY), or --host 127.0.0.1",
            {"host": server.host},
        )
