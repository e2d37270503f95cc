"""Computes the log-probabilities of a model in the trainer and in every way of the server, and
compares the bits.

Deliberately does not know argv or the output: `flaxen parity` prints what is found here.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, pack
from flaxen.llm import LLM, LoraLimits
from flaxen.models.adapters import Adapters, LoraConfig, with_adapters
from flaxen.models.model import Model, Params
from flaxen.outputs import RequestOutput
from flaxen.parity.prompts import CHUNK
from flaxen.protocol import SamplingParams
from flaxen.training.lora import initial_adapters
from flaxen.training.loss import token_logprobs
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.huggingface.export import export_huggingface

_ROWS, _MAX_SEGMENTS = 2, 32  # of a training step
_ADAPTER = "parity"
_NEW_ADAPTER = LoraConfig(rank=8)  # it changes nothing yet, but takes part in the computation
_KV_BYTES = 256 << 20

# A whole sequence -> the log-probability of each token but the first.
Scores = Mapping[tuple[int, ...], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The comparison of one way's log-probabilities with the trainer's."""

    way: str
    num_tokens: int
    trainer_mean: float  # nats per token
    mean: float
    num_differing: int  # in any bit
    max_difference: float  # nats


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A prompt and its completion, with the server's log-probabilities."""

    tokens: tuple[int, ...]
    num_prompt: int
    prompt: tuple[float, ...]  # of each prompt token but the first; empty if not requested
    output: tuple[float, ...]  # of each token after the prompt
    num_cached: int  # prompt tokens


def compare(
    args: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    num_outputs: int,
    adapter: Adapter | None = None,
) -> list[Compared]:
    """Compares prompts and their greedy completions in the trainer and in every way of the server.

    The trainer's log-probabilities are those of a LoRA step's forward under `jax.grad`, with the
    sequences packed into rows.

    Args:
      args: fields of flaxen.engine_args.EngineArgs.
      prompts: token ids, each longer than CHUNK.
      num_outputs: tokens after each prompt.
      adapter: the adapter to train and serve; None is the base model, served without one.

    Raises:
      ValueError: as in LLM, or a prompt is too short or too long.
      RuntimeError: the server failed a request, or did not find a computed prompt in the prefix
          cache.
    """
    shortest = min(map(len, prompts))
    if shortest <= CHUNK:
        raise ValueError(
            f"a prompt of {shortest} tokens is too short to be prefilled in chunks and to be found "
            f"in the prefix cache: give prompts of more than {CHUNK}"
        )
    server = _start(args, max(map(len, prompts)) + num_outputs, adapter)
    whole, cached = [], []
    for prompt in prompts:
        whole += _serve(server, [prompt], num_outputs)
        cached += _serve(server, [prompt], num_outputs, with_prompt=False)
    if not all(each.num_cached for each in cached):
        raise RuntimeError("a prompt was not found in the prefix cache just after it was computed")
    batched = _serve(server, prompts, num_outputs)
    del server  # frees its memory before the next one loads
    server = _start(args, CHUNK, adapter)
    chunked = [_serve(server, [prompt], num_outputs)[0] for prompt in prompts]
    served = [*whole, *chunked, *cached, *batched]
    trained = _train(server.model, server.params, [each.tokens for each in served], adapter)
    return [
        _compare("whole prefill", whole, trained, prompt=True),
        _compare("chunked prefill", chunked, trained, prompt=True),
        _compare("decode", [*whole, *chunked], trained, output=True),
        _compare("cached prefill", cached, trained, output=True),
        _compare("batched", batched, trained, prompt=True, output=True),
    ]


def _start(args: Mapping[str, Any], budget: int, adapter: Adapter | None) -> LLM:
    limits = None
    if adapter is not None:
        limits = LoraLimits(max_loras=1, max_lora_rank=adapter.config.rank)
    llm = LLM(
        **args,
        lora=limits,
        max_num_batched_tokens=budget,
        max_num_seqs=16,
        page_size=CHUNK,
        kv_cache_bytes=_KV_BYTES,
    )
    if adapter is not None:
        llm.load_adapter(_ADAPTER, adapter)
    return llm


def _serve(
    server: LLM, prompts: Sequence[Sequence[int]], num_outputs: int, *, with_prompt: bool = True
) -> list[_Served]:
    sampling = SamplingParams(
        temperature=0,
        max_tokens=num_outputs,
        ignore_eos=True,
        logprobs=0,
        prompt_logprobs=0 if with_prompt else None,
    )
    has_adapter = bool(server.engine.known_adapters())
    outputs = server.generate(
        [list(prompt) for prompt in prompts], sampling, adapter=_ADAPTER if has_adapter else None
    )
    return [_served(output) for output in outputs]


def _served(output: RequestOutput) -> _Served:
    completion = output.outputs[0]
    if completion.error is not None or completion.logprobs is None:
        raise RuntimeError(f"the server failed a request: {completion.error}")
    of_prompt = zip(output.prompt_token_ids[1:], (output.prompt_logprobs or [])[1:], strict=False)
    of_output = zip(completion.token_ids, completion.logprobs, strict=True)
    return _Served(
        tokens=(*output.prompt_token_ids, *completion.token_ids),
        num_prompt=len(output.prompt_token_ids),
        prompt=tuple(places[token].logprob for token, places in of_prompt if places is not None),
        output=tuple(places[token].logprob for token, places in of_output),
        num_cached=output.num_cached_tokens,
    )


def _train(
    model: Model, params: Params, sequences: Sequence[tuple[int, ...]], adapter: Adapter | None
) -> Scores:
    """Runs the forward and gradient of a training step over each sequence once."""
    trained, assemble = _trained(model, params, adapter)

    def loss(trained: Any, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        found = token_logprobs(model, assemble(params, trained, batch.tokens.shape), batch)
        return -(found * batch.loss_weights).sum(), found

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    length = max(map(len, sequences)) - 1
    each_once = [
        TokenSequence(np.array(tokens, np.int32), np.ones(len(tokens), np.float32))
        for tokens in dict.fromkeys(sequences)
    ]
    rows = pack(each_once, length, _MAX_SEGMENTS)
    scores = {}
    for start in range(0, len(rows), _ROWS):
        chosen = rows[start : start + _ROWS]
        (_, found), gradient = step(trained, params, collate(chosen, _ROWS, length))
        jax.block_until_ready(gradient)
        for row, values in zip(chosen, np.asarray(found), strict=False):
            begin = 0
            for sequence in row:
                end = begin + sequence.num_inputs
                scores[tuple(sequence.tokens.tolist())] = values[begin:end]
                begin = end
    return scores


def _trained(
    model: Model, params: Params, adapter: Adapter | None
) -> tuple[Any, Callable[[Params, Any, tuple[int, int]], Params]]:
    """The trained tree of a step: adapters, or the parameters of a definition."""
    if adapter is None and not model.has_layers:
        name = model.trained
        if name is None:
            return params, lambda params, trained, shape: trained
        return params[name], lambda params, trained, shape: {**params, name: trained}
    if adapter is None:
        stack, scale = initial_adapters(model, _NEW_ADAPTER, [0]), _NEW_ADAPTER.scale
    else:
        stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], adapter.tree)
        scale = adapter.config.scale

    def assemble(params: Params, stack: Adapters, shape: tuple[int, int]) -> Params:
        scales = jnp.full(1, scale, jnp.float32)
        return with_adapters(params, stack, scales, jnp.zeros(shape, jnp.int32))

    return stack, assemble


def _compare(
    way: str,
    served: Sequence[_Served],
    trained: Scores,
    *,
    prompt: bool = False,
    output: bool = False,
) -> Compared:
    ours: list[float] = []
    theirs: list[float] = []
    for each in served:
        scores = trained[each.tokens]
        if prompt:
            ours += scores[: each.num_prompt - 1].tolist()
            theirs += each.prompt
        if output:
            ours += scores[each.num_prompt - 1 :].tolist()
            theirs += each.output
    return differences(way, ours, theirs)


def differences(way: str, ours: Sequence[float], theirs: Sequence[float]) -> Compared:
    """Compares float32 log-probabilities.

    Args:
      way: how `theirs` were computed.
      ours: the trainer's, at least one.
      theirs: equally many.
    """
    assert len(ours) == len(theirs) > 0
    one, other = np.array(ours, np.float32), np.array(theirs, np.float32)
    return Compared(
        way=way,
        num_tokens=len(one),
        trainer_mean=float(one.mean(dtype=np.float64)),
        mean=float(other.mean(dtype=np.float64)),
        num_differing=int((one.view(np.uint32) != other.view(np.uint32)).sum()),
        max_difference=float(np.abs(one - other).max()),
    )


def has_transformers() -> bool:
    """Whether the comparison with transformers is possible."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def contrast(
    args: Mapping[str, Any], prompts: Sequence[Sequence[int]], checkpoint: Checkpoint
) -> Compared:
    """Compares with a second implementation, transformers, with the same weights and dtype.

    Args:
      args: as in `compare`.
      prompts: token ids.
      checkpoint: the model's checkpoint, for its path.

    Raises:
      ImportError: torch or transformers is not installed.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    server = _start(args, max(map(len, prompts)) + 1, None)
    served = _serve(server, prompts, 1)
    trained = _train(server.model, server.params, [each.tokens for each in served], None)
    with tempfile.TemporaryDirectory(prefix="flaxen-parity-") as folder:
        directory = Path(folder) / "model"
        export_huggingface(directory, checkpoint.family, checkpoint.config, server.params)
        other = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    ours: list[float] = []
    theirs: list[float] = []
    with torch.inference_mode():
        for each in served:
            ids = torch.tensor(each.tokens[: each.num_prompt])
            logits = other(ids[None]).logits[0, :-1].float()
            ours += trained[each.tokens][: each.num_prompt - 1].tolist()
            theirs += torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0].tolist()
    return differences(f"transformers {transformers.__version__}", ours, theirs)
