"""`flaxen.train`: trains a model from Python, by the same run as `flaxen train`.

Deliberately does not know argv, or how a run works.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from flaxen.compile_cache import CompileCache, choose_compile_cache
from flaxen.data.memory import Data, read_data
from flaxen.definitions.definition import Definition
from flaxen.hub.places import Places
from flaxen.kernels.device import AUTO, use_device
from flaxen.models.model import Model, Params
from flaxen.runs.describe import describe_stop
from flaxen.runs.display import OnRecord, show_training
from flaxen.runs.given import definition_of
from flaxen.runs.keywords import settings_of
from flaxen.runs.opening import OpenedRun, open_run
from flaxen.runs.result import TrainResult, make_result
from flaxen.runs.run import run
from flaxen.runs.stopping import Stop, stop_at_signals
from flaxen.sharding.processes import Processes, this_process
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.settings import make_config, take_mesh


def train(
    model: Model | Definition | str | Path,
    params: Params | None = None,
    data: Data | None = None,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    definition: str | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    on_metrics: Callable[[Mapping[str, Any]], None] | None = None,
    progress: bool | None = None,
    compile_cache: CompileCache = None,
    device: str = AUTO,
    backend: str = AUTO,
    mesh: str | Mapping[str, int] = "",
    offline: bool = False,
    **settings: Any,
) -> TrainResult:
    """Trains a model, or an adapter of one, on texts, conversations or preference pairs.

        model, params = flaxen.from_nnx(module, max_position=512)
        result = flaxen.train(model, params, ["texts.jsonl"], tokenizer="smollm2-135m",
                              method="full", num_steps=200, learning_rate=1e-3)
        result.update(module)
        result.save("my-model")

    The arrays in `params` are neither changed nor donated. The result has the same bits as that of
    `flaxen train` with the same settings and data.

    Args:
      model: a Model, as a bridge such as `from_nnx` returns it; a Definition; or the name of a
        model, a directory, a .gguf file or a Hugging Face repository.
      params: the parameters of a Model, as the bridge returned them; else None.
      data: one or several files (.jsonl, .txt, .md or .parquet); or records: texts, or dicts with
        the keys of a line of such a file, as of a data set of Hugging Face.
      tokenizer: of a Model: a directory with tokenizer.json, the name of a model that has it, or a
        Tokenizer; else None.
      definition: the code, FILE.py:NAME, of a definition's directory that is the model; None runs
        what the directory names.
      output_dir: where checkpoints, metrics and the result are written; None writes nothing.
      resume: resume the run in output_dir from its last checkpoint, if there is one.
      on_metrics: called after each step with its record: step, loss, learning_rate, ...
      progress: whether to show progress on stderr; None shows it on a terminal only.
      compile_cache: as of `flaxen.LLM`: what is compiled is kept for the next process.
      device: where it is trained, as EngineArgs.device.
      backend: what computes, as EngineArgs.backend.
      mesh: the devices that the run is divided over, as "fsdp=4,tensor=2" or {"fsdp": 4}; the empty
        text is one device.
      offline: never ask the Hugging Face hub.
      **settings: `method` (full, lora, dpo), `num_steps`, `epochs`, `batch_size`,
        `sequence_length`, `learning_rate`, `rank`, `seed`, and all other fields of TrainConfig and
        DataConfig, by their names; `optimizer`, `schedule`, `lora`, `dpo` and `checkpoint` as a
        dict each. Defaults are those of `flaxen train`, `method="lora"` among them.

    Raises:
      TypeError: there is no such setting.
      ValueError: a setting is not allowed, the model can't be trained in this way, or a record or
        file is bad.
      DivergedError: the loss is no longer finite; the last checkpoint is from before.
      OSError: a file can't be read or written.
      KeyboardInterrupt: Ctrl-C, after the step that was running; its note says where the state is
        saved, and the same call with resume=True goes on from there.
    """
    given = definition_of(model, params, tokenizer)
    if given is not None and definition is not None:
        raise ValueError(
            f"definition={definition!r} names the code of a directory, and the model is a "
            "definition itself: leave it out"
        )
    if data is None:
        raise ValueError("data is missing: give data=, files or records to train on")
    files, sources = read_data(data)
    choose_compile_cache(compile_cache, os.environ)
    use_device(device)
    refuse_processes(this_process())
    found = settings_of(settings)
    _, shape = take_mesh({"mesh": mesh})
    found.setdefault("data", {})["files"] = list(map(str, files))
    found["model"] = str(model) if given is None else given.name
    found["output_dir"] = None if output_dir is None else str(output_dir)
    opened = open_run(
        make_config(found),
        definition if given is None else given,
        sources=sources,
        backend=backend,
        mesh=shape,
        resume=resume,
        places=Places(offline=offline),
        on_progress=lambda what, done, total: None,
    )
    return _run(opened, progress, on_metrics)


def _run(
    opened: OpenedRun,
    progress: bool | None,
    on_metrics: Callable[[Mapping[str, Any]], None] | None,
) -> TrainResult:
    """Trains until the end, or until the step in which Ctrl-C comes: then KeyboardInterrupt."""
    records: list[Any] = []
    with _show(progress, opened) as show:

        def on_record(record: Any) -> None:
            records.append(record)
            show(record)
            if on_metrics is not None:
                on_metrics(record)

        with _stop_at_interrupt() as stop:
            finished = run(opened, peak_flops=None, on_record=on_record, should_stop=stop)
    if stop() and int(finished.state.step) < opened.num_steps:
        interrupt = KeyboardInterrupt()
        interrupt.add_note(describe_stop(opened, finished, opened.config.output_dir))
        raise interrupt
    return make_result(opened, finished.state, tuple(records))


def refuse_processes(processes: Processes) -> None:
    """Refuses more than one process: a result would have no parameters that one of them could read.

    Raises:
      ValueError: JAX was started with several.
    """
    if processes.count > 1:
        raise ValueError(
            f"flaxen.train runs in one process, and JAX was started with {processes.count}: use "
            "the command, flaxen train --coordinator-address HOST:PORT --num-processes N "
            "--process-id I, which writes the result to a directory"
        )


@contextmanager
def _stop_at_interrupt() -> Iterator[Stop]:
    """Yields what the first Ctrl-C sets; the second one raises KeyboardInterrupt as ever."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield Stop()  # the program has a way of its own
        return

    def again(number: int) -> None:
        raise KeyboardInterrupt

    with stop_at_signals((signal.SIGINT,), at_first=lambda number: None, at_second=again) as stop:
        yield stop


@contextmanager
def _show(wanted: bool | None, opened: OpenedRun) -> Iterator[OnRecord]:
    console = Console(stderr=True)
    if wanted or (wanted is None and console.is_terminal):
        console.print(opened.plan, soft_wrap=True, highlight=False, markup=False)
        with show_training(console, opened.num_steps) as show:
            yield show
    else:
        yield lambda record: None
