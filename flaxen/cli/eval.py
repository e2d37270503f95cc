"""`flaxen eval`: scores a model on files, by perplexity or by multiple choice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flaxen.cli import options
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.build import EngineArgs
    from flaxen.models.model import Model
    from flaxen.text.tokenizer import Tokenizer
    from flaxen.train.evaluate import Score
    from flaxen.weights.checkpoint import Checkpoint
    from flaxen.weights.definition import Definition

TASKS = ("auto", "perplexity", "choice")
_DATA_PANEL = "Data"
_LENGTH = 1024  # tokens of a row, where the model takes so many


def evaluate(
    model: options.Model,
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            "-d",
            metavar="FILE",
            help="A .jsonl, .txt, .md or .parquet file; may be given several times.",
            rich_help_panel=_DATA_PANEL,
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            help="perplexity of the texts, completions or chats; choice, of questions with choices "
            "and an answer; or auto, by the first record.",
            rich_help_panel=_DATA_PANEL,
        ),
    ] = "auto",
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A LoRA adapter's directory, as PEFT writes it, beside the model.",
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens of a row: long texts are split, longer chats and prompts are cut.",
            show_default=f"{_LENGTH}, or the model's own where that is less",
            rich_help_panel=_DATA_PANEL,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="New tokens in each window of a long text; those before them are context. Less "
            "is slower, and gives each token more context.",
            show_default="--sequence-length: windows side by side",
            rich_help_panel=_DATA_PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows computed at once.", rich_help_panel=_DATA_PANEL)
    ] = 4,
    on_bad_record: Annotated[
        str,
        typer.Option(
            help="fail at records that can't be used, or skip and count them.",
            rich_help_panel=_DATA_PANEL,
        ),
    ] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    chat_template: options.ChatTemplate = None,
    threads: options.Threads = None,
    compile_cache: options.CompileCache = None,
    offline: options.Offline = False,
) -> None:
    """Score a model on files: perplexity, or multiple choice."""
    if task not in TASKS:
        raise ValueError(f"the task {task!r} is not known: use one of {', '.join(TASKS)}")
    if on_bad_record not in ("fail", "skip"):
        raise ValueError(f"--on-bad-record must be fail or skip, got {on_bad_record!r}")
    if task == "auto":
        task = find_task(data[0])
    if task == "choice" and stride is not None:
        raise ValueError("--stride is for the perplexity of long texts: leave it out for questions")

    args = options.engine_args(
        model,
        compile_cache,
        dtype=dtype,
        impl=impl,
        quantization=quantization,
        offline=offline,
        chat_template=chat_template,
    )

    from flaxen.build import open_model

    cpu = set_up_cpu(threads)
    with show_progress(Console(stderr=True)) as on_progress:
        opened = find_definition(model, checkpoint) or open_model(args)
        subject = _load(opened, args, adapter, on_progress)
    announce(cpu)
    rows = _Rows(
        files=tuple(data),
        length=_row_length(sequence_length, subject.model.max_position),
        stride=stride,
        batch_size=batch_size,
        on_bad_record=on_bad_record,
    )
    found = (_perplexity if task == "perplexity" else _choice)(subject, rows)
    result = {"task": task, "model": model, "adapter": str(adapter) if adapter else None, **found}
    print(json.dumps(result) if as_json else describe(result))


def find_task(file: Path) -> str:
    """The task of a file: choice where its first JSON line has choices, else perplexity.

    Raises:
      OSError: the file can't be read.
    """
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        return "perplexity"
    with file.open("rb") as opened:
        line = next((line for line in opened if line.strip()), b"")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "perplexity"  # which will name the line
    return "choice" if isinstance(value, dict) and "choices" in value else "perplexity"


def describe(result: dict[str, Any]) -> str:
    """A result in words."""
    skipped = f"; {result['num_bad']} bad records skipped" if result["num_bad"] else ""
    cut = f"; {result['num_truncated']} records cut" if result["num_truncated"] else ""
    if result["task"] == "perplexity":
        return (
            f"perplexity {result['perplexity']:.4f}, loss {result['loss']:.5f} a token, over "
            f"{result['num_tokens']} tokens of {result['num_records']} records (windows of "
            f"{result['sequence_length']} tokens, {result['stride']} new in each{skipped}{cut})"
        )
    return (
        f"accuracy {result['accuracy']:.4f} ± {result['stderr']:.4f}, by length "
        f"{result['accuracy_norm']:.4f} ± {result['stderr_norm']:.4f}, over "
        f"{result['num_questions']} questions (the choice of the highest log-probability, and of "
        f"the highest a byte{skipped}{cut})"
    )


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is scored."""

    model: Model
    tokenizer: Tokenizer
    score: Score


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """On what, and in which rows."""

    files: tuple[Path, ...]
    length: int
    stride: int | None
    batch_size: int
    on_bad_record: Any  # checked: fail or skip


def _row_length(wanted: int | None, max_position: int) -> int:
    if wanted is not None and wanted > max_position:
        raise ValueError(
            f"--sequence-length is {wanted}, and the model was made for {max_position} tokens: "
            "lower it"
        )
    return wanted or min(_LENGTH, max_position)


def _load(
    opened: Checkpoint | Definition, args: EngineArgs, adapter: Path | None, on_progress: Any
) -> _Subject:
    from flaxen.build import compute_dtype
    from flaxen.kernels.choice import choose_backend
    from flaxen.text.given_template import with_template
    from flaxen.train.evaluate import make_score
    from flaxen.weights.adapters.peft import load_adapter

    tokenizer = with_template(opened.make_tokenizer(), args.chat_template)
    beside = load_adapter(adapter, opened.model) if adapter else None
    backend = choose_backend(args.backend)
    params = opened.load_params(
        compute_dtype(args.dtype, backend, opened),  # as it is served
        lambda done, total: on_progress("weights", done, total),
        packed=backend.packs_weights,
        quantization=args.quantization,
    )
    model = opened.model.on(backend)
    score = make_score(model, params, beside)
    return _Subject(model=model, tokenizer=tokenizer, score=score)


def _perplexity(subject: _Subject, rows: _Rows) -> dict[str, Any]:
    from flaxen.data.config import DataConfig
    from flaxen.data.iterate import open_data
    from flaxen.train.evaluate import perplexity

    stride = rows.stride or rows.length
    if stride > rows.length:
        raise ValueError(
            f"--stride {stride} is more than the {rows.length} tokens of a row: tokens would be "
            "left out"
        )
    config = DataConfig(
        files=rows.files,
        batch_size=rows.batch_size,
        sequence_length=rows.length,
        shuffle=False,
        on_bad_record=rows.on_bad_record,
        overlap=rows.length - stride,
    )
    data = open_data(config, subject.tokenizer, vocab_size=subject.model.vocab_size)
    try:
        found = perplexity(data, subject.score)
    finally:
        data.close()
    report = data.report()
    return {
        "perplexity": found.perplexity,
        "loss": found.loss,
        "num_tokens": found.num_tokens,
        "sequence_length": rows.length,
        "stride": stride,
        "num_records": report.num_records,
        "num_bad": report.num_bad,
        "num_truncated": report.num_truncated,
    }


def _choice(subject: _Subject, rows: _Rows) -> dict[str, Any]:
    from flaxen.data.choices import encode_question, read_questions
    from flaxen.data.encode import Encoder
    from flaxen.train.evaluate import Choices, multiple_choice

    read = read_questions(rows.files, rows.on_bad_record)
    encoder = Encoder(subject.tokenizer, vocab_size=subject.model.vocab_size)
    eos_ids = subject.tokenizer.eos_token_ids
    try:
        encoded = [encode_question(encoder, q, eos_ids, rows.length) for q in read.questions]
    finally:
        encoder.close()
    by_sum, by_length = multiple_choice(
        [
            Choices(sequences=sequences, lengths=question.choice_bytes, answer=question.answer)
            for question, (sequences, _) in zip(read.questions, encoded, strict=True)
        ],
        subject.score,
        batch_size=rows.batch_size,
        sequence_length=rows.length,
    )
    return {
        "accuracy": by_sum.accuracy,
        "stderr": by_sum.stderr,
        "accuracy_norm": by_length.accuracy,
        "stderr_norm": by_length.stderr,
        "num_questions": by_sum.num_questions,
        "sequence_length": rows.length,
        "num_bad": read.num_bad,
        "num_truncated": sum(was_cut for _, was_cut in encoded),
    }
