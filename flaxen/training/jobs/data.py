"""A job's records, tokenized once for its plan and for all epochs.

Deliberately does not know the computation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxen.data.config import DataConfig
from flaxen.data.corpus import Corpus
from flaxen.data.encode import Encoder
from flaxen.data.iterate import DataIterator, batches_of
from flaxen.data.token_store import TokenStore
from flaxen.training.jobs.plan import JobPlan, make_plan, row_length
from flaxen.training.jobs.spec import Base, JobSpec


@dataclass(frozen=True, kw_only=True)
class JobData:
    """What a job trains on, and the plan that was made from it."""

    plan: JobPlan
    batches: DataIterator[Any]
    validation: DataIterator[Any] | None


@contextlib.contextmanager
def open_job_data(spec: JobSpec, base: Base, should_stop: Callable[[], bool]) -> Iterator[JobData]:
    """Reads a job's files.

    Raises:
      ValueError: the records are invalid for training.
      OSError: a file can't be read.
      StoppedError: should_stop returned True; also raised while the yielded data is read.
    """
    with contextlib.ExitStack() as closing:

        def open_corpus(file: Path) -> tuple[Corpus, DataConfig]:
            config = DataConfig(files=(file,), sequence_length=base.max_length, seed=spec.seed)
            corpus = Corpus(
                config,
                Encoder(
                    base.tokenizer,
                    vocab_size=base.model.vocab_size,
                    should_stop=should_stop,
                ),
                pairs=spec.method == "dpo",
                store=TokenStore(directory=spec.directory),
                should_stop=should_stop,
            )
            corpus.expect_rereading()
            closing.callback(corpus.close)
            return corpus, config

        corpus, config = open_corpus(spec.training_file)
        plan = make_plan(
            spec.method, spec.hyperparameters, _lengths(corpus), max_length=base.max_length
        )
        # No sequence is longer than a row: the plan's row fits the longest one, which may have been
        # cut.
        config = replace(
            config,
            batch_size=plan.rows_per_step,
            sequence_length=plan.row_length,
            epochs=plan.n_epochs,
        )
        batches = batches_of(corpus, config, base.tokenizer)
        validation = None
        if spec.validation_file is not None:
            corpus, config = open_corpus(spec.validation_file)
            length = row_length(spec.method, _lengths(corpus), max_length=base.max_length)
            config = replace(config, batch_size=plan.rows_per_step, sequence_length=length)
            validation = batches_of(corpus, config, base.tokenizer)
        yield JobData(plan=plan, batches=batches, validation=validation)


def _lengths(corpus: Corpus) -> list[int]:
    """The number of tokens of each record; for a pair that of the longer answer."""
    lengths = []
    for index in range(len(corpus)):
        sizes = [sequence.num_inputs for sequence in corpus.sequences(index)]
        lengths.append(max(sizes) if corpus.has_pairs else sum(sizes))
    return lengths
