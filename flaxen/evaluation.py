"""What `flaxen eval` computes: perplexity, also through pages of a KV cache, and multiple choice.

Without a cache a model computes as in training. Through pages each sequence is the prompt of a
request, so that what its tokens read was rounded as `kv_cache_dtype` says. Deliberately does not
know argv, nor how results are printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxen.build import OnProgress, Parts, build, open_named
from flaxen.data.batch import Batch
from flaxen.data.choices import encode_question, read_questions
from flaxen.data.config import DataConfig, OnBadRecord
from flaxen.data.encode import Encoder
from flaxen.data.opening import open_data
from flaxen.engine_args import EngineArgs, compute_dtype
from flaxen.kernels.choice import choose_backend
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.model import Model
from flaxen.models.staging import stage_params
from flaxen.outputs import RequestOutput
from flaxen.protocol import Request, SamplingParams
from flaxen.text.given_template import with_template
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.evaluate import (
    EncodedQuestion,
    LogprobFn,
    make_logprobs,
    multiple_choice,
    perplexity,
)
from flaxen.training.layout import over
from flaxen.weights.adapters.peft import load_adapter


class Subject(NamedTuple):
    """The model to evaluate, and its memory."""

    model: Model
    tokenizer: Tokenizer
    logprobs: LogprobFn
    weight_bytes: int  # of all its devices
    # In which a sequence of the longest length fits; None: computed without a cache.
    kv_cache_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Records:
    """The records to evaluate on, and how they become batches."""

    files: tuple[Path, ...]
    batch_size: int  # rows
    sequence_length: int  # tokens of a row
    on_bad_record: OnBadRecord


def check_pages(task: str, adapter: Path | None) -> None:
    """Refuses what is not computed through pages.

    Raises:
      ValueError: the task is not perplexity, or there is an adapter.
    """
    if task == "choice":
        raise ValueError(
            "--kv-cache-dtype is for perplexity, and these are questions with choices: leave it out"
        )
    if adapter is not None:
        raise ValueError(
            "--kv-cache-dtype and an adapter are not evaluated together: merge it first, with "
            "flaxen merge"
        )


def row_length(wanted: int | None, max_position: int, *, default: int) -> int:
    """The tokens of a row.

    Raises:
      ValueError: the model was made for fewer.
    """
    if wanted is not None and wanted > max_position:
        raise ValueError(
            f"--sequence-length is {wanted}, and the model was made for {max_position} tokens: "
            "lower it"
        )
    return wanted or min(default, max_position)


def load(args: EngineArgs, adapter: Path | None, on_progress: OnProgress) -> Subject:
    """Opens a model and loads its weights, to be computed as in training."""
    opened = open_named(args).generator
    tokenizer = with_template(opened.make_tokenizer(), args.chat_template)
    beside = load_adapter(adapter, opened.model) if adapter else None
    mesh = args.mesh_shape
    backend = choose_backend(args.backend, args.device, num_devices=mesh.num_devices)
    model = over(opened.model, backend, mesh)
    params = opened.load_params(
        compute_dtype(args.dtype, backend, opened),  # as in serving
        lambda done, total: on_progress("weights", done, total),
        backend=backend,
        quantization=args.quantization,
        placement=model.placement,
    )
    params = stage_params(params, model.placement)
    logprobs = make_logprobs(model, params, beside)
    return Subject(model, tokenizer, logprobs, num_bytes(params))


def load_in_pages(args: EngineArgs, length: int | None, on_progress: OnProgress) -> Subject:
    """Builds an engine. The model's longest row leaves room for the token that follows a prompt.

    Args:
      args: with the format of the KV cache.
      length: tokens of a row; None is as long as the model and its cache allow.
      on_progress: as in `flaxen.build.build`.

    Raises:
      ValueError: as in `flaxen.build.build`.
    """
    # A prompt has a target more than a row has inputs, and one token is generated after it.
    max_len = None if length is None else length + 2
    parts = build(replace(args, max_model_len=max_len), on_progress)
    model = replace(parts.model, max_position=parts.cache_plan.max_model_len - 2)
    return Subject(
        model,
        parts.tokenizer,
        paged_logprobs(parts),
        num_bytes(parts.params),
        parts.cache_plan.whole_bytes,
    )


def score_texts(subject: Subject, records: Records, *, stride: int | None) -> dict[str, Any]:
    """The perplexity of texts, completions or chats, by windows with `stride` new tokens each; None
    has windows side by side.

    Raises:
      ValueError: the stride is longer than a row, or a record is bad.
    """
    length = records.sequence_length
    stride = length if stride is None else stride
    if stride > length:
        raise ValueError(
            f"--stride {stride} is more than the {length} tokens of a row: tokens would be left out"
        )
    config = DataConfig(
        files=records.files,
        batch_size=records.batch_size,
        sequence_length=length,
        shuffle=False,
        on_bad_record=records.on_bad_record,
        overlap=length - stride,
    )
    data = open_data(config, subject.tokenizer, vocab_size=subject.model.vocab_size)
    try:
        found = perplexity(data, subject.logprobs)
    finally:
        data.close()
    report = data.report()
    return {
        "perplexity": found.perplexity,
        "loss": found.loss,
        "num_tokens": found.num_tokens,
        "sequence_length": length,
        "stride": stride,
        "num_records": report.num_records,
        "num_bad": report.num_bad,
        "num_truncated": report.num_truncated,
        "weight_bytes": subject.weight_bytes,
        "kv_cache_bytes": subject.kv_cache_bytes,
    }


def score_questions(subject: Subject, records: Records) -> dict[str, Any]:
    """The accuracy over questions with choices.

    Raises:
      ValueError: a record is bad, or there is none.
    """
    length = records.sequence_length
    read = read_questions(records.files, records.on_bad_record)
    encoder = Encoder(subject.tokenizer, vocab_size=subject.model.vocab_size)
    eos_ids = subject.tokenizer.eos_token_ids
    try:
        encoded = [encode_question(encoder, q, eos_ids, length) for q in read.questions]
    finally:
        encoder.close()
    by_sum, by_length = multiple_choice(
        [
            EncodedQuestion(
                sequences=sequences, lengths=question.choice_bytes, answer=question.answer
            )
            for question, (sequences, _) in zip(read.questions, encoded, strict=True)
        ],
        subject.logprobs,
        batch_size=records.batch_size,
        sequence_length=length,
    )
    return {
        "acc": by_sum.accuracy,
        "acc_stderr": by_sum.stderr,
        "acc_norm": by_length.accuracy,
        "acc_norm_stderr": by_length.stderr,
        "num_questions": by_sum.num_questions,
        "sequence_length": length,
        "num_bad": read.num_bad,
        "num_truncated": sum(was_cut for _, was_cut in encoded),
        "weight_bytes": subject.weight_bytes,
    }


def paged_logprobs(parts: Parts) -> LogprobFn:
    """Makes the function that scores each target of a batch, [B, T], as a token of a prompt."""

    def logprobs(batch: Batch) -> np.ndarray:
        found = np.zeros(batch.targets.shape, np.float32)
        for row, places, prompt in _prompts(batch):
            values = _of_prompt(parts, prompt)
            found[row, places] = values[: len(places)]
        return found

    return logprobs


def _prompts(batch: Batch) -> Iterator[tuple[int, np.ndarray, tuple[int, ...]]]:
    """The row, the places of the targets, and the tokens of each sequence of a batch."""
    for row, ids in enumerate(batch.segment_ids):
        for segment in range(1, int(ids.max()) + 1):
            places = np.flatnonzero(ids == segment)
            tokens = batch.tokens[row, places].tolist()
            last = int(batch.targets[row, places[-1]])
            if last >= 0:
                tokens.append(last)
            if len(tokens) > 1:
                yield row, places[: len(tokens) - 1], tuple(tokens)


def _of_prompt(parts: Parts, prompt: tuple[int, ...]) -> list[float]:
    """The log-probability of each token of a prompt but the first."""

    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
    request = Request(request_id="prompt", prompt_token_ids=prompt, sampling=sampling)
    output = RequestOutput.of(request, None)
    parts.engine.add(parts.engine.check(request))
    while parts.engine.has_work:
        for event in parts.engine.step():
            output.add(event)
    (only,) = output.outputs
    if only.error is not None:
        raise ValueError(f"a prompt could not be scored: {only.error}")
    assert output.prompt_logprobs is not None
    scored = zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
    return [each[token].logprob for token, each in scored if each is not None]
