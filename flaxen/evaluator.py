"""`flaxen.evaluate`: the perplexity of a model from Python, as `flaxen eval` computes it.

Deliberately does not know argv, or questions with choices.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from flaxen.build import open_named
from flaxen.compile_cache import CompileCache, choose_compile_cache
from flaxen.data.config import DataConfig
from flaxen.data.fit import LONGEST_ROW
from flaxen.data.memory import Data, read_data
from flaxen.data.opening import open_data
from flaxen.definitions.definition import Definition
from flaxen.engine_args import EngineArgs, compute_dtype
from flaxen.kernels.choice import AUTO, choose_backend
from flaxen.models.model import Model, Params
from flaxen.models.staging import stage_params
from flaxen.runs.given import definition_of
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.evaluate import LogprobFn, Perplexity, make_logprobs, perplexity
from flaxen.training.layout import over
from flaxen.weights.adapters.adapter import Adapter, check_adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.checkpoint import Checkpoint


def evaluate(
    model: Model | Definition | str | Path,
    params: Params | None = None,
    data: Data | None = None,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    adapter: Adapter | str | Path | None = None,
    definition: Definition | str | None = None,
    batch_size: int = 4,
    sequence_length: int | None = None,
    dtype: str = "auto",
    compile_cache: CompileCache = None,
    device: str = AUTO,
    backend: str = AUTO,
    mesh: str = "",
    offline: bool = False,
) -> Perplexity:
    """Computes the mean loss of a model over the tokens of a data set, and its perplexity.

        before = flaxen.evaluate("smollm2-135m", data=["held-out.jsonl"])
        after = flaxen.evaluate("smollm2-135m", data=["held-out.jsonl"], adapter="my-adapter")
        print(before.perplexity, after.perplexity)

    Args:
      model: as in `flaxen.train`.
      params: as in `flaxen.train`.
      data: as in `flaxen.train`; of conversations and completions the answers count.
      tokenizer: as in `flaxen.train`.
      adapter: an adapter to compute with, or its directory in PEFT's format.
      definition: as in `flaxen.load`.
      batch_size: rows that are computed at once.
      sequence_length: tokens of a row: long texts are split, longer conversations and prompts are
        cut. None is 1,024, or the model's own length where that is less.
      dtype: of compute, as in serving.
      compile_cache: as of `flaxen.LLM`.
      device: where it is computed, as EngineArgs.device.
      backend: what computes, as EngineArgs.backend.
      mesh: the devices that the model is divided over, as EngineArgs.mesh.
      offline: never ask the Hugging Face hub.

    Returns:
      `loss` (in nats a token), `perplexity` and `num_tokens`.

    Raises:
      ValueError: the model or adapter does not exist or do not fit together, or a record or file is
        bad.
      OSError: a file can't be read.
    """
    given = definition_of(model, params, tokenizer)
    if data is None:
        raise ValueError("data is missing: give data=, files or records to evaluate on")
    files, sources = read_data(data)
    choose_compile_cache(compile_cache, os.environ)
    if given is not None and definition is not None:
        raise ValueError(
            "definition names the code of a directory, and the model is a definition itself: leave "
            "definition out"
        )
    args = EngineArgs(
        model=str(model) if given is None else given.name,
        definition=definition,
        device=device,
        backend=backend,
        mesh=mesh,
        dtype=dtype,
        offline=offline,
    )
    opened = open_named(args).generator if given is None else given
    longest = opened.model.max_position
    if sequence_length is not None and sequence_length > longest:
        raise ValueError(
            f"sequence_length is {sequence_length}, and the model was made for {longest} tokens: "
            "lower it"
        )
    config = DataConfig(
        files=files,
        batch_size=batch_size,
        sequence_length=sequence_length or min(LONGEST_ROW, longest),
        shuffle=False,
    )
    logprobs = _logprobs(opened, args, _adapter_of(adapter, opened.model))
    batches = open_data(
        config, opened.make_tokenizer(), vocab_size=opened.model.vocab_size, sources=sources
    )
    with contextlib.closing(batches):
        return perplexity(batches, logprobs)


def _adapter_of(given: Adapter | str | Path | None, model: Model) -> Adapter | None:
    """The adapter that was given or is in a directory, checked against the model."""
    if isinstance(given, str | Path):
        return load_adapter(Path(os.path.expanduser(given)), model)
    if given is not None:
        check_adapter(given, model)
    return given


def _logprobs(
    opened: Checkpoint | Definition, args: EngineArgs, adapter: Adapter | None
) -> LogprobFn:
    """Loads the weights, and makes what computes the log-probabilities of a batch with them."""
    shape = args.mesh_shape
    backend = choose_backend(args.backend, args.device, num_devices=shape.num_devices)
    model = over(opened.model, backend, shape)
    weights = opened.load_params(
        compute_dtype(args.dtype, backend, opened),
        backend=backend,
        quantization=args.quantization,
        placement=model.placement,
    )
    return make_logprobs(model, stage_params(weights, model.placement), adapter)
