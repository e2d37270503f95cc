"""Makes the draft model of an engine: opened, checked against the model, and in its own memory.

Deliberately does not know: drafting, argv.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flaxen.engine.speculative.config import SpeculativeConfig
from flaxen.engine.speculative.draft_model import DraftModel
from flaxen.engine_args import EngineArgs
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.memory.draft_cache import divide_cache
from flaxen.prepared import OnProgress, Prepared, load, prepare, with_cache
from flaxen.scheduling.config import LoraLimits
from flaxen.sharding.processes import this_process
from flaxen.text.tokenizer import Tokenizer

BadWordIds = Callable[[tuple[str, ...]], tuple[tuple[int, ...], ...]]


def prepare_both(
    prepared: Prepared, report: OnProgress, lora: LoraLimits | None
) -> tuple[Prepared, Prepared | None]:
    """Opens the draft model that the arguments name, and divides the memory of the KV cache.

    Args:
      prepared: the model, which was planned without a draft model.
      report: called with (stage, done, total).
      lora: the limits of the model's adapters.

    Returns:
      The model with its part of the memory, and the draft model, if there is one.

    Raises:
      ValueError: the model gives vectors, the draft model can't be used beside it, or the memory
          is too small.
    """
    speculation = prepared.args.speculation
    if speculation is not None and prepared.pooling is not None:
        raise ValueError(
            f"speculative_config drafts tokens, and {prepared.checkpoint.name} gives vectors: "
            "leave it out"
        )
    if speculation is None or speculation.model is None:
        return prepared, None
    _check_place(prepared)
    alone = prepare(_draft_args(prepared.args, speculation), report, None, None)
    _check_model(prepared, alone)
    plans = prepared.cache_plan, alone.cache_plan
    own_bytes, draft_bytes = divide_cache(*plans, alone.weight_bytes)
    prepared = with_cache(prepared, lora, own_bytes, prepared.args.max_model_len)
    most = (prepared.config.max_model_len, alone.cache_plan.model_len, speculation.max_model_len)
    longest = min(each for each in most if each is not None)
    return prepared, with_cache(alone, None, draft_bytes, longest)


def make_draft_model(
    prepared: Prepared, tokenizer: Tokenizer, bad_word_ids: BadWordIds, report: OnProgress
) -> DraftModel:
    """Loads the draft model, and starts its executor.

    Args:
      prepared: the draft model.
      tokenizer: the model's.
      bad_word_ids: as in JaxExecutor.
      report: called with (stage, done, total).

    Raises:
      ValueError: it has another vocabulary.
    """
    own, (params,) = load(prepared, lambda done, total: report("weights", done, total))
    for token_id in range(prepared.models[0].vocab_size):
        ours, theirs = tokenizer.token_bytes(token_id), own.token_bytes(token_id)
        if ours != theirs:
            raise ValueError(
                f"the draft model {prepared.args.model} has the token {theirs!r} where the model "
                f"has {ours!r} (id {token_id}): take a draft model of the same tokenizer"
            )
    config = replace(prepared.config, num_spec_tokens=0, target_itl_ms=0)
    executor = JaxExecutor(
        prepared.models[0],
        params,
        config,
        eos_ids=tokenizer.eos_token_ids,
        cache_dtype=prepared.cache_dtype,
        bad_word_ids=bad_word_ids,
        compiles_beside=True,
    )
    return DraftModel(config, executor)


def _draft_args(args: EngineArgs, speculation: SpeculativeConfig) -> EngineArgs:
    """The arguments of the draft model as if it were served alone, with the steps of the model."""
    assert speculation.model is not None
    return replace(
        args,
        model=speculation.model,
        quantization=speculation.quantization,  # type: ignore[arg-type]  # checked there
        max_model_len=speculation.max_model_len,
        speculative_config=None,
        served_model_name=None,
        definition=None,
        chat_template=None,
        runner="generate",
        kv_cache_bytes=None,
        memory_bytes=None,
    )


def _check_place(prepared: Prepared) -> None:
    num_devices = prepared.args.mesh_shape.num_devices
    if num_devices > 1 or this_process().count > 1:
        raise ValueError(
            f"a draft model computes on one device, and this engine has {num_devices}: take the "
            "method ngram or suffix, or one device"
        )


def _check_model(prepared: Prepared, draft: Prepared) -> None:
    sizes = [each.models[0].vocab_size for each in (prepared, draft)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the draft model {draft.args.model} has a vocabulary of {sizes[1]} tokens, and the "
            f"model one of {sizes[0]}: take a draft model of the same tokenizer"
        )
    if not all(group.keeps_tokens for group in draft.cache_plan.groups):
        raise ValueError(
            f"the draft model {draft.args.model} keeps states of one size, which can't go back to "
            "before a draft token that was wrong: take one with attention alone"
        )
